"""The architectures of the paper: one Vision Transformer built from a config."""
