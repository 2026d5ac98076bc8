"""Checkpoints in and out, and what is known of them."""
