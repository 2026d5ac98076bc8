"""The denoising transformer, its key/value cache, and checkpoints in the paper's layout."""

from bd3cli.model.cache import KVCache
from bd3cli.model.config import TransformerConfig
from bd3cli.model.mode import evaluating
from bd3cli.model.state import load_tensors
from bd3cli.model.transformer import Transformer

__all__ = ["KVCache", "Transformer", "TransformerConfig", "evaluating", "load_tensors"]
