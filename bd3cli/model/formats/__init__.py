"""Checkpoints of others: the published layout, Lightning files, pickles read without running them."""
