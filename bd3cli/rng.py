"""Random numbers as pure functions of a key, so that runs resume exactly and world size does not matter."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key`, the same on every platform."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A fresh CPU generator for one named stream, for example ``generator(seed, "mask", step)``."""
    return torch.Generator().manual_seed(derive_seed(*key))


def uniform(shape: tuple[int, ...], *key: int | str) -> torch.Tensor:
    """Float64 uniforms in [0, 1) of `shape` from the stream named by `key`."""
    return torch.rand(shape, generator=generator(*key), dtype=torch.float64)


def stratified(n: int, *key: int | str) -> torch.Tensor:
    """`n` float64 uniforms in [0, 1), one in each of `n` equal cells, in random order.

    Each entry alone is uniform; together they are antithetic. The order is shuffled, so that a block's
    position is not tied to its time (the published code leaves them in order).
    """
    g = generator(*key)
    cells = torch.randperm(n, generator=g).double()
    return (cells + torch.rand(n, generator=g, dtype=torch.float64)) / n
