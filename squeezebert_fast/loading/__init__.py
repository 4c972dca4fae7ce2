"""Loading, saving and conversion of checkpoints."""
