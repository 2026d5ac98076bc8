"""Tokenizers: text to ids and back, one file a kind; `load` finds one by its name."""
