"""Measurements: interleaved repeats in one process, medians and ratios with their spread."""
