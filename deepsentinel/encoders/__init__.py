"""Stems, backbones and fusion: patches of either or both sensors to `Features`."""
