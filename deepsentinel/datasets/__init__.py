"""Torch datasets over corpora, their transforms, and synthetic scenes."""
