"""Pretrained encoders: rows of facts, cards, and `load_encoder`."""
