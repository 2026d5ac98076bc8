"""Reading pickles nobody vouches for: the tensors are exact, and nothing in the file is ever called."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from bd3cli.errors import InputError
from bd3cli.model.formats.pickled import Inert, load_pickled


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_containers_are_read_exactly(tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 4)
    content: dict[str, Any] = {
        "plain": base,
        "view": base.t(),
        "slice": base[2:5, 1:3],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "types": [torch.arange(5, dtype=dtype) for dtype in (torch.int64, torch.uint8, torch.bfloat16, torch.float16)],
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "ordered": collections.OrderedDict([("b", torch.ones(2)), ("a", torch.zeros(2))]),
        "nested": ({"k": (1, 2.5, None, True, "text")}, {3, 4}),
    }
    file = tmp_path / "file.pt"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    loaded = load_pickled(file)
    assert loaded.keys() == content.keys()
    for key in ("plain", "view", "slice", "parameter", "bool", "scalar", "empty"):
        assert torch.equal(loaded[key], content[key].detach()), key
        assert loaded[key].dtype == content[key].dtype
    assert loaded["view"].data_ptr() == loaded["plain"].data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(loaded["types"], content["types"], strict=True))
    assert list(loaded["ordered"]) == ["b", "a"]
    assert loaded["nested"] == content["nested"]
    assert not isinstance(loaded["parameter"], torch.nn.Parameter)


def program_file(path: Path, program: bytes) -> Path:
    """An archive as torch.save writes it, with `program` in place of its pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", b"little")
    return path


class Bomb:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def bombs(proof: Path) -> dict[str, object]:
    """Objects whose loading by `pickle.load` would create the file `proof`."""
    touch, code = f"touch {proof}", f"open({str(proof)!r}, 'w').close()"
    import subprocess

    return {
        "os.system": Bomb(os.system, touch),
        "eval": Bomb(builtins.eval, f"__import__('os').system({touch!r})"),
        "exec": Bomb(builtins.exec, code),
        "open": Bomb(builtins.open, str(proof), "w"),
        "subprocess": Bomb(subprocess.check_output, ["touch", str(proof)]),
        "several": [Bomb(os.system, touch), Bomb(builtins.eval, code)],
        "torch": Bomb(torch.save, {}, str(proof)),
        "pathlib": Bomb(Path.touch, proof),
        "inside a tensor dictionary": {"state_dict": collections.OrderedDict(w=Bomb(os.system, touch))},
    }


RAW = {
    # opcodes by hand: global + reduce, the instance opcode, a state given to a class, a call of a stub's result
    "INST": b"(S'touch {0}'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch {0}'\no.",
    "getattr chain": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch {0}'\ntR.",
    "import": b"cbuiltins\n__import__\n(S'os'\ntRp0\n0cbuiltins\ngetattr\n(g0\nS'system'\ntR(S'touch {0}'\ntR.",
    "build with a setter": b"cos\n_wrap_close\n)\x81}S'__setstate__'\ncos\nsystem\nsbS'touch {0}'\nb.",
    "build of a known class": b"ccollections\nOrderedDict\n)R}S'keys'\ncos\nsystem\nsb.",
    "torch rebuild": b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n(cos\nsystem\nS'touch {0}'\ntR.",
    "extension": b"\x80\x02\x82\x01.",
}


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the one function these programs are after."""
    called: list[str] = []
    monkeypatch.setattr(os, "system", called.append)
    return called


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", bombs(Path("x")))
def test_a_bomb_does_not_go_off(tmp_path: Path, kind: str, zipped: bool) -> None:
    proof = tmp_path / "proof"
    file = tmp_path / "bomb.ckpt"
    torch.save(bombs(proof)[kind], file, _use_new_zipfile_serialization=zipped)
    loaded = load_pickled(file)
    assert isinstance(loaded, (Inert, list, dict))
    assert not proof.exists()


def test_the_bombs_are_real(tmp_path: Path, no_calls: list[str]) -> None:
    """`pickle` itself does what they say, so that the other tests could fail."""
    for kind in ("INST", "OBJ", "import"):
        pickle.loads(RAW[kind])
    assert no_calls == ["touch {0}"] * 3
    for kind in ("exec", "subprocess", "pathlib"):
        proof = tmp_path / kind
        pickle.loads(pickle.dumps(bombs(proof)[kind]))
        assert proof.exists(), kind


@pytest.mark.parametrize("kind", RAW)
def test_hand_made_programs_call_nothing(tmp_path: Path, no_calls: list[str], kind: str) -> None:
    proof = tmp_path / "proof"
    file = program_file(tmp_path / "bomb.ckpt", RAW[kind].replace(b"{0}", str(proof).encode()))
    try:
        loaded = load_pickled(file)
    except InputError as error:
        assert "is not an intact PyTorch checkpoint" in str(error)  # noqa: PT017
    else:
        assert isinstance(loaded, (Inert, dict))
    assert no_calls == []
    assert not proof.exists()


def test_a_stub_keeps_what_the_file_says_of_it(tmp_path: Path) -> None:
    file = program_file(tmp_path / "f", pickle.dumps(Bomb(os.system, "echo"), protocol=2))
    loaded = load_pickled(file)
    assert loaded.origin == f"{os.system.__module__}.system"
    assert loaded.arguments == ("echo",)


def storage_program(numel: int, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    """The pickle of one tensor over a storage that claims `numel` floats."""

    class Claim(Bomb):
        pass

    class Writer(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if obj == "the storage" else None

    out = io.BytesIO()
    from torch._utils import _rebuild_tensor_v2

    Writer(out, 2).dump(Claim(_rebuild_tensor_v2, "the storage", offset, size, stride, False, {}))
    return out.getvalue()


@pytest.mark.parametrize(
    ("numel", "size", "stride", "offset", "message"),
    [
        (4, (5,), (1,), 0, r"size \[5\] in a storage of 4"),
        (4, (4,), (1,), 1, "in a storage of 4"),
        (4, (2, 2), (9, 1), 0, "in a storage of 4"),
        (4, (1 << 40,), (0,), 0, "in a storage of 4"),
        (4, (-1,), (1,), 0, "not made of a storage"),
        (1 << 50, (4,), (1,), 0, "has 16 bytes"),
        (-1, (4,), (1,), 0, "has 16 bytes"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, numel, size, stride, offset, message) -> None:
    file = program_file(tmp_path / "f.ckpt", storage_program(numel, size, stride, offset))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    with pytest.raises(InputError, match=message):
        load_pickled(file)
    whole = program_file(tmp_path / "good.ckpt", storage_program(4, (2, 2), (2, 1)))
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    assert load_pickled(whole).tolist() == [[1, 2], [3, 4]]


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.ckpt"
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}) + bytes(10_000))
    greedy = program_file(tmp_path / "greedy.ckpt", b"\x80\x02]r\xff\xff\xff\xff.")
    for content, message in (
        (b"", "not an intact"),
        (b"hello", "not an intact"),
        (os.urandom(500), "not an intact"),
        (pickle.dumps({"a": 1}), "does not begin as torch.save"),
        (packed.read_bytes(), "is compressed"),
        (greedy.read_bytes(), "remembers an object number 4294967295"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_pickled(file)
    with pytest.raises(InputError, match="cannot be read"):
        load_pickled(tmp_path / "absent")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_and_flipped_files_are_refused_or_read(tmp_path: Path, zipped: bool) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"w": torch.arange(32.0), "meta": ["x"] * 5}, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    file = tmp_path / "damaged.pt"
    refused = 0
    for where in range(0, len(data), 23):
        for damaged in (data[:where], data[:where] + bytes([data[where] ^ 255]) + data[where + 1 :]):
            file.write_bytes(damaged)
            try:
                load_pickled(file)
            except InputError:
                refused += 1
    assert refused > len(data) // 23
