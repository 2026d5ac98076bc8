"""A run on disk, and a run opened."""

from bd3cli.runs.run import Run, read_recipe

__all__ = ["Run", "read_recipe"]
