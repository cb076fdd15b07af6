"""What `evaluate` is made of."""
