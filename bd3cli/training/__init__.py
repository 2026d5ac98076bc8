"""Training: one visible loop, its optimizer, checkpoints and record."""
