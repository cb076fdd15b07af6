"""What `pretrain` is made of."""
