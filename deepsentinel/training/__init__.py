"""Fine-tuning and evaluation, on Lightning."""
