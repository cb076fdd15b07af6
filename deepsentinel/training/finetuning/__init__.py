"""What `finetune` is made of."""
