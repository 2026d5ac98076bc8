# ruff: noqa: E501
"""Bad input by the hundred, from a seed: recipes, data files, tokenizers and checkpoints, each as a command line."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bd3cli.runs.checkpoint import file_sha256

Case = tuple[str, list[str]]
SECTIONS = {
    "model": ["length", "hidden_size", "blocks", "heads", "cond_dim"],
    "train": ["steps", "batch_size", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"],
    "eval": ["draws", "batch_size"],
}


class Bomb:
    """Unpickled carelessly, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def noise(chance: random.Random, size: int) -> bytes:
    """Bytes that are no text."""
    return b"\xff\xfe" + chance.randbytes(size) + b"\xff"


def recipes(chance: random.Random, folder: Path) -> Iterator[Case]:
    """Recipe files that cannot be used, in endless variety."""
    kinds = (
        "typo",
        "type",
        "range",
        "garbage",
        "bytes",
        "circle",
        "spec",
        "clip",
        "table",
        "twice",
        "choice",
        "missing",
    )
    for number in range(10**9):
        kind = kinds[number % len(kinds)]
        section = chance.choice(list(SECTIONS))
        key = chance.choice(SECTIONS[section])
        path = folder / f"{number}-{kind}.toml"
        text = {
            "typo": f"[{section}]\n{key}{chance.choice('xyzq')} = 3\n",
            "type": f"[{section}]\n{key} = {chance.choice(['[1]', 'true', '3.5', '1979-05-27', '{}', '[[]]'])}\n",
            "range": f"[{section}]\n{key} = {chance.choice([0, -1, -(2**63), -chance.randrange(1, 10**6)])}\n",
            "garbage": "".join(chance.choice('[]{}="\n\\x.') for _ in range(chance.randrange(5, 60))) + '\n[" = [',
            "circle": f'extends = "{path.name}"\n',
            "spec": "[objective]\nschedule = " + json.dumps(chance.choice(
                [":", "cosine:=1", "cosine:eps", "cosine:eps=x", "cosine:eps=1e999", "cosine:eps=nan", "x" * 5000, "é:a=1",
                 "cosine:eps=-1", "loglinear:a=1", "../../etc", "cosine:eps=0.1,eps=0.2", ""])),
            "clip": f"[objective]\nclip = {chance.choice(['[0.8, 0.2]', '[0.1]', '[nan, 1]', '[0, 2]', '[-inf, inf]', '3'])}",
            "table": f"{section} = {chance.choice(['3', '[]', json.dumps('text')])}\n",
            "twice": f"[{section}]\n{key} = 3\n{key} = 4\n",
            "choice": "[" + chance.choice(['objective]\nfamily', 'train]\nprecision', 'data]\npacking', 'model]\nsize'])
            + f" = {json.dumps(''.join(chance.choices('abc é', k=5)))}\n",
        }.get(kind)  # fmt: skip
        if kind == "bytes":
            path.write_bytes(noise(chance, 50))
        elif text is not None:
            path.write_text(text)
        yield f"recipe {path.name}", ["config", "validate", str(path)] if number % 2 else [
            "train", str(path), "--out", str(folder / f"run-{number}")
        ]  # fmt: skip


def data_files(chance: random.Random, folder: Path) -> Iterator[Case]:
    """Texts, tables and vocabularies that cannot be read."""
    kinds = ("empty.txt", "short.txt", "bytes.txt", "broken.jsonl", "scalar.jsonl", "column.jsonl", "number.jsonl",
             "deep.jsonl", "column.csv", "bytes.csv", "garbage.parquet", "truncated.parquet", "garbage.gz", "cut.txt.gz",
             "surrogate.jsonl", "quote.csv", "ragged.tsv", "garbage.arrow", "cut.jsonl.zst",
             "folder", "nothing", "loop.txt", "unknown.xyz", "vocabulary.tiktoken", "ranks.tiktoken")  # fmt: skip
    for number in range(10**9):
        kind = kinds[number % len(kinds)]
        path = folder / f"{number}-{kind}"
        size = chance.randrange(1, 400)
        if kind == "folder":
            path.mkdir()
            (path / "image.bin").write_bytes(noise(chance, size))
        elif kind == "loop.txt":
            path.symlink_to(path.name)
        elif kind == "cut.txt.gz":
            path.write_bytes(gzip.compress(chance.randbytes(5000))[: size + 20])
        elif kind != "nothing":
            path.write_bytes({
                "empty.txt": b"\n" * (size % 3),
                "short.txt": b"word " * (size % 9),
                "broken.jsonl": b'{"text": "a"}\n{"text": "' + b"x" * size + b"\n",
                "scalar.jsonl": b"[1, 2]\n" * size,
                "column.jsonl": b'{"id": 1}\n' * size,
                "number.jsonl": b'{"text": 3}\n' * size,
                "deep.jsonl": b'{"text": ' + b"[" * (size * 500),
                "column.csv": b"id,body\n1,hello\n" * size,
                "surrogate.jsonl": b'{"text": "a"}\n' * size + b'{"text": "\\ud83d"}\n',
                "quote.csv": b'text,n\n"a"",1\n' * size,
                "ragged.tsv": b"text\tn\na\t1\n" * size + b"b\n",
                "cut.jsonl.zst": b"\x28\xb5\x2f\xfd" + chance.randbytes(size),
                "truncated.parquet": b"PAR1" + chance.randbytes(size),
                "vocabulary.tiktoken": noise(chance, size),
                "ranks.tiktoken": b"aGVsbG8= x\n" * size,
            }.get(kind, noise(chance, size)))  # fmt: skip
        chosen = ["--tokenizer", str(path)] if kind.endswith("tiktoken") else ["--data", str(path)]
        yield f"data {path.name}", ["train", *chosen, "--steps", "1", "--out", str(folder / f"run-{number}")]


def checkpoints(chance: random.Random, folder: Path, run: Path) -> Iterator[Case]:
    """Copies of a good run with one thing wrong. `folder`/bomb exists if something was executed."""
    for number in range(10**9):
        kind = KINDS[number % len(KINDS)]
        copy = folder / f"{number}-{kind}"
        shutil.copytree(run, copy)
        resumes = kind in RESUME_ONLY or number // len(KINDS) % 3 == 2
        damage(kind, chance, copy, folder / "bomb", None if resumes else "ema.safetensors")
        command = (
            ["eval", str(copy), "--sequences", "4"],
            ["sample", str(copy)],
            ["train", "--resume", "--out", str(copy)],
        )
        command[2].extend(["--steps", "999"])
        yield f"checkpoint {copy.name}", command[2] if resumes else command[number // len(KINDS) % 3]


KINDS = (
    "flipped", "truncated", "missing", "shape", "extra tensor", "missing tensor", "pickle bomb", "pickled weights", "header",
    "no state", "state", "record", "recipe", "optimizer shape", "optimizer keys", "empty", "data", "tokenizer",
)  # fmt: skip
RESUME_ONLY = ("pickle bomb", "optimizer shape", "optimizer keys", "data")
WEIGHTS = ("model.safetensors", "ema.safetensors")


def damage(kind: str, chance: random.Random, run: Path, bomb: Path, read: str | None = None) -> None:
    """Do one kind of damage to the newest checkpoint of a run, or to its record.

    `read` is the one file of the checkpoint that is used, if it is not all of them.
    """
    checkpoint = sorted((run / "checkpoints").glob("step-*"))[-1]
    files = sorted(p.name for p in checkpoint.iterdir() if p.name != "state.json")
    file = checkpoint / (read or chance.choice(files))
    raw = bytearray(file.read_bytes())
    if kind == "flipped":
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        file.write_bytes(raw)
    elif kind == "truncated":
        file.write_bytes(raw[: chance.randrange(len(raw))])
    elif kind == "missing":
        file.unlink()
    elif kind in ("shape", "extra tensor", "missing tensor"):
        for name in WEIGHTS:
            tensors = load_file(checkpoint / name)
            key = chance.choice(sorted(tensors))
            if kind == "shape":
                tensors[key] = torch.zeros(7, 3)
            elif kind == "extra tensor":
                tensors["surplus"] = torch.zeros(2)
            else:
                del tensors[key]
            save_file(tensors, checkpoint / name)
            forge(checkpoint, name)
    elif kind == "pickle bomb":
        write = pickle.dumps if chance.random() < 0.5 else lambda obj: torch_bytes(obj, run)
        (checkpoint / "optimizer.pt").write_bytes(write({"optimizer": Bomb(bomb)}))
        forge(checkpoint, "optimizer.pt")
    elif kind == "pickled weights":
        for name in WEIGHTS:
            (checkpoint / name).write_bytes(pickle.dumps(Bomb(bomb)))
            forge(checkpoint, name)
    elif kind == "header":
        for name in WEIGHTS:
            (checkpoint / name).write_bytes(
                chance.randrange(2**40, 2**63).to_bytes(8, "little") + b'{"a":' + bytes(raw[:99])
            )
            forge(checkpoint, name)
    elif kind in ("optimizer shape", "optimizer keys"):
        state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
        if kind == "optimizer shape":
            state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
        else:
            del state[chance.choice(["optimizer", "warmup"])]
        torch.save(state, checkpoint / "optimizer.pt")
        forge(checkpoint, "optimizer.pt")
    elif kind == "no state":
        (checkpoint / "state.json").unlink()
    elif kind == "empty":
        shutil.rmtree(run / "checkpoints")
        (run / "checkpoints").write_text("not a directory")
    elif kind == "state":
        bad = [
            "",
            "[]",
            "{}",
            "null",
            '{"step": "x", "sha256": {}}',
            '{"step": 1, "sha256": 3}',
            "\x00",
            '{"sha256": {}}',
        ]
        (checkpoint / "state.json").write_text(chance.choice(bad))
    elif kind == "record":
        (run / "run.json").write_text(
            chance.choice(["", "[]", "nul", '{"a"', "\ud800".encode("utf8", "ignore").decode()])
        )
    elif kind == "recipe":
        (run / "recipe.toml").write_bytes(
            chance.choice([b"[model]\nsize = 3", b"\xff\xfe", b"[", b"x = 1", b'data = "no"'])
        )
    elif kind == "data":
        record = json.loads((run / "run.json").read_text())
        record["data"]["train"]["fingerprint"] = "0" * 64
        (run / "run.json").write_text(json.dumps(record))
    elif kind == "tokenizer":
        record = json.loads((run / "run.json").read_text())
        record["tokenizer"] = chance.choice([{}, {"fingerprint": "0"}, {"fingerprint": None}])
        (run / "run.json").write_text(json.dumps(record))


def torch_bytes(obj: object, folder: Path) -> bytes:
    torch.save(obj, folder / "scratch")
    return (folder / "scratch").read_bytes()


def forge(checkpoint: Path, name: str) -> None:
    """Make the checksum right again, as someone who means harm would."""
    state = json.loads((checkpoint / "state.json").read_text())
    state["sha256"][name] = file_sha256(checkpoint / name)
    (checkpoint / "state.json").write_text(json.dumps(state))
