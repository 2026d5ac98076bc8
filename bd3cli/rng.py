"""Random numbers as pure functions of a key, so that runs resume exactly and world size does not matter.

A key is hashed to 128 bits, which key numpy's counter-based Philox 4x64: two keys share a stream only if their
hashes agree in all of them. (`torch.Generator.manual_seed` keeps 32 bits on the CPU: a few ten thousand seeds are
enough for two of them to be the same one.)

What draws from torch's global generators and cannot be given another (a layer's first weights, dropout) is
seeded by `seed_torch`, with as many bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch

STREAM_VERSION = 2  # raised whenever the same key would give other numbers; 1 had 32 bits on the CPU
TWISTER = slice(24, 24 + 624 * 8)  # bytes of torch's CPU generator state that hold its 624 words, 8 bytes each


def _key(*key: int | str) -> npt.NDArray[np.uint64]:
    """Two 64-bit words [2] that depend on every part of `key`, the same on every platform."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def generator(*key: int | str) -> np.random.Generator:
    """A fresh generator for one named stream, for example ``generator(seed, "sample")``."""
    return np.random.Generator(np.random.Philox(key=_key(*key)))


def uniform(shape: tuple[int, ...], *key: int | str) -> torch.Tensor:
    """Float64 uniforms in [0, 1) of `shape` from the stream named by `key`."""
    return torch.from_numpy(generator(*key).random(shape))


def permutation(n: int, *key: int | str) -> torch.Tensor:
    """0..n-1 [n] in random order, from the stream named by `key`."""
    return torch.from_numpy(generator(*key).permutation(n))


def stratified(n: int, *key: int | str) -> torch.Tensor:
    """`n` float64 uniforms in [0, 1), one in each of `n` equal cells, in random order.

    Each entry alone is uniform; together they are antithetic. The order is shuffled, so that a block's
    position is not tied to its time (the published code leaves them in order).
    """
    g = generator(*key)
    return torch.from_numpy((g.permutation(n) + g.random(n)) / n)


def seed_torch(*key: int | str) -> None:
    """Seed torch's global generators, on every device, with the stream named by `key`.

    An accelerator's takes the 64 bits of a seed. The CPU's takes 32 of them, so its state, a Mersenne
    twister's 624 words of 32 bits, is filled in whole.
    """
    words = _key(*key)
    torch.manual_seed(int(words[0]))
    state = torch.get_rng_state()  # as freshly seeded: the next draw begins a new cycle
    state.numpy()[TWISTER].view(np.uint64)[:] = np.random.Philox(key=words).random_raw(312).astype("<u8").view("<u4")
    torch.set_rng_state(state)
