"""Neck, heads and models: `Features` to `Prediction`."""
