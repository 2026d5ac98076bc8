"""Import, export and inspect checkpoints."""
