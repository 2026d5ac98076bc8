"""Read the tensors of an untrusted PyTorch pickle (``.ckpt``, ``.pt``) without running anything in it.

A pickle is a program: it names functions and has them called. Here the only names that mean anything are tensors
and containers, and each stands for a function or class of this file. Every other name becomes an inert stub that
keeps what it is given. `torch.load` with its own list of names would refuse these files, since they hold
configuration objects and a tokenizer beside the tensors.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import mul
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bd3cli.errors import InputError

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before 1.6
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class Inert:
    """Stands for an object that was not made: `origin` is its name, `arguments` and `state` what the file says."""

    origin = "?"

    def __new__(cls, *arguments: Any, **options: Any) -> Inert:
        self = super().__new__(cls)
        self.arguments, self.state, self.items = arguments, None, []  # type: ignore[attr-defined]
        return self

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **options: Any) -> Inert:
        return Inert(self, *arguments)

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "state", state)

    def append(self, item: Any) -> None:
        self.items.append(item)  # type: ignore[attr-defined]

    add = append

    def extend(self, items: Any) -> None:
        self.items.extend(items)  # type: ignore[attr-defined]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))  # type: ignore[attr-defined]


class Mapping(dict[Any, Any]):
    """For the dictionaries of `collections`, without attributes or default factory."""

    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(arguments[0] if arguments and isinstance(arguments[0], (dict, list, tuple)) else ())

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class StorageType:
    dtype: torch.dtype


def rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    """A view of a storage, which must lie within it and be no larger than it."""
    numbers: tuple[int, ...] = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor that is not made of a storage, an offset, a size and strides")
    if len(size) != len(stride):
        raise ValueError("a tensor with as many strides as dimensions is expected")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    total = reduce(mul, size, 1)
    if total > storage.numel() or (total and last >= storage.numel()):
        raise ValueError(f"a tensor of size {list(size)} in a storage of {storage.numel()} elements")
    return torch.as_strided(storage, size, stride, offset)


def rebuild_parameter(data: Tensor, *rest: Any) -> Tensor:
    return data


KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): Mapping,
    ("collections", "defaultdict"): Mapping,
    **{(m, t.__name__): t for m in ("builtins", "__builtin__") for t in (set, frozenset, list, dict, tuple)},
    **{(m, name): StorageType(dtype) for m in ("torch", "torch.storage") for name, dtype in DTYPES.items()},
}


class RestrictedUnpickler(pickle.Unpickler):
    """Finds the names of `KNOWN`; every other one is a new class of inert objects."""

    def __init__(self, program: bytes, storage: Callable[[tuple[Any, ...]], Tensor]) -> None:
        super().__init__(io.BytesIO(program), encoding="utf-8", errors="replace")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get((module, name))
        return type("Inert", (Inert,), {"origin": f"{module}.{name}"}) if known is None else known

    def persistent_load(self, pid: Any) -> Tensor:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], StorageType)):
            raise pickle.UnpicklingError("a reference to something that is no tensor storage")
        return self._storage(pid)


def load_pickled(path: Path) -> Any:
    """What a file written by `torch.save` holds: tensors on the CPU, containers, plain values and `Inert`.

    Raises:
        InputError: unreadable, damaged or not such a file.
    """
    try:
        with path.open("rb") as file:
            return _load_zip(file) if zipfile.is_zipfile(file) else _load_legacy(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # whatever a malformed program can provoke
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise InputError(f"{path} is not an intact PyTorch checkpoint: {reason}.") from error


def _load_zip(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in entries:
            raise ValueError("the archive has no data.pkl")
        packed = [name for name, info in entries.items() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{packed[0]} is compressed, which torch.save never does")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise ValueError("its byte order is not little-endian")
        loaded: dict[str, Tensor] = {}

        def storage(pid: tuple[Any, ...]) -> Tensor:
            _, kind, key, _, numel = pid[:5]
            if key not in loaded:
                loaded[key] = _from_bytes(archive.read(entries[f"data/{key}"]), kind.dtype, numel)
            return loaded[key].view(kind.dtype)

        with archive.open(entries["data.pkl"]) as program:
            return RestrictedUnpickler(_checked_program(io.BytesIO(program.read())), storage).load()


def _load_legacy(file: IO[bytes]) -> Any:
    """The format before torch 1.6: pickles one after the other, then the storages."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    loaded: dict[str, Tensor] = {}

    def storage(pid: tuple[Any, ...]) -> Tensor:
        _, kind, key, _, numel, view = (*pid[:5], pid[5] if len(pid) > 5 else None)
        if key not in loaded:
            total = sum(t.nbytes for t in loaded.values()) + numel * kind.dtype.itemsize
            if not 0 <= total <= size:
                raise ValueError(f"storages of {total} bytes in a file of {size}")
            loaded[key] = torch.empty(numel, dtype=kind.dtype)  # filled when its bytes come, after the pickles
        if view is None:
            return loaded[key]
        _, offset, length = view
        return rebuild_tensor(loaded[key], offset, (length,), (1,))

    def one() -> Any:
        return RestrictedUnpickler(_checked_program(file), storage).load()

    if one() != LEGACY_MAGIC or one() != LEGACY_VERSION:
        raise ValueError("it does not begin as torch.save begins a file")
    one()  # the machine that wrote it
    result, keys = one(), one()
    for key in keys:
        target = loaded[key]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != target.numel():
            raise ValueError(f"storage {key} has {numel} elements, not {target.numel()}")
        target.copy_(_from_bytes(file.read(target.nbytes), target.dtype, numel))
    return result


def _from_bytes(data: bytes, dtype: torch.dtype, numel: int) -> Tensor:
    if len(data) != numel * dtype.itemsize:
        raise ValueError(f"a storage of {numel} elements of {dtype} has {len(data)} bytes")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _checked_program(file: IO[bytes]) -> bytes:
    """The next pickle of `file`, after a look at what its machine would be asked to allocate."""
    start, slots = file.tell(), 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None:
            slots = max(slots, int(argument))
    length = file.tell() - start
    if slots > length:  # the table of remembered objects is as long as its highest number
        raise ValueError(f"it remembers an object number {slots} in {length} bytes")
    file.seek(start)
    return file.read(length)
