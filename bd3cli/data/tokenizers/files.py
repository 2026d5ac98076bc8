"""Where tiktoken encodings come from: OpenAI's published files, cached by tiktoken, or a local file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bd3cli.data.network import reachable
from bd3cli.errors import InputError, did_you_mean
from bd3cli.plugins import load_plugins

if TYPE_CHECKING:
    import tiktoken

BOS, EOS, ENDOFTEXT = "<|bos|>", "<|eos|>", "<|endoftext|>"
OFFLINE_HELP = (
    "Without a network use 'bytes', a local .tiktoken file, or point TIKTOKEN_CACHE_DIR at a copy of "
    "tiktoken's cache from a machine that has downloaded it."
)
HOST = "https://openaipublic.blob.core.windows.net"
# Files of each public encoding and their SHA-256: tiktoken looks for them in its cache by the hash of the
# address. Knowing them lets us say "offline" at once; tiktoken alone waits for the network, and deletes a
# cached file that does not match before it knows whether it can have another.
PUBLIC_FILES: dict[str, dict[str, str]] = {
    "gpt2": {
        f"{HOST}/gpt-2/encodings/main/vocab.bpe": ("1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
        f"{HOST}/gpt-2/encodings/main/encoder.json": (
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
        ),
    },
    "r50k_base": {
        f"{HOST}/encodings/r50k_base.tiktoken": ("306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930")
    },
    "p50k_base": {
        f"{HOST}/encodings/p50k_base.tiktoken": ("94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069")
    },
    "cl100k_base": {
        f"{HOST}/encodings/cl100k_base.tiktoken": ("223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")
    },
    "o200k_base": {
        f"{HOST}/encodings/o200k_base.tiktoken": ("446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")
    },
}
PUBLIC_FILES["p50k_edit"] = PUBLIC_FILES["p50k_base"]
PUBLIC_FILES["o200k_harmony"] = PUBLIC_FILES["o200k_base"]

# How cl100k splits text before merging; a .tiktoken file holds ranks but no rule.
CL100K_PATTERN = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)


def encoding_names() -> list[str]:
    """Names of the public encodings, and of those that other packages add to tiktoken."""
    import tiktoken

    return tiktoken.list_encoding_names()


def load_encoding(name: str) -> tiktoken.Encoding:
    """A public encoding by name, from tiktoken's cache or its download.

    Raises:
        InputError: unknown name, or it must be downloaded and cannot be.
    """
    import tiktoken

    if name not in encoding_names():
        plugins = [other for other in load_plugins().registry["tokenizer"].names() if other not in ("hf", "ids")]
        known = list(dict.fromkeys(["bytes", *encoding_names(), *plugins]))
        raise InputError(
            f"There is no tokenizer {name!r}.{did_you_mean(name.partition(':')[0], known)} Known: {', '.join(known)}, "
            "a path to a .tiktoken file, or hf:NAME. A missing one may need a plugin: see `bd3cli plugins list`."
        )
    wanted = [url for url, sha in PUBLIC_FILES.get(name, {}).items() if not _is_cached(url, sha)]
    if wanted and not reachable(wanted[0]):
        raise InputError(
            f"Tokenizer {name!r} must be downloaded from {HOST} once, which cannot be reached, and it is "
            f"not (or not intact) in tiktoken's cache {_cache_dir()}. {OFFLINE_HELP}"
        )
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:
        raise InputError(
            f"Tokenizer {name!r} could not be loaded: {type(error).__name__}: {error}. {OFFLINE_HELP}"
        ) from error


def _cache_dir() -> Path:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable])
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def _is_cached(url: str, sha256: str) -> bool:
    path = _cache_dir() / hashlib.sha1(url.encode()).hexdigest()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def is_openai(encoding: tiktoken.Encoding) -> bool:
    """Whether text is split as in one of OpenAI's encodings: of others nothing is known."""
    from tiktoken_ext.openai_public import r50k_pat_str

    return encoding.name in PUBLIC_FILES or encoding._pat_str in (r50k_pat_str, CL100K_PATTERN)


def read_tiktoken_file(path: Path) -> tiktoken.Encoding:
    """An encoding from a local file of ``base64-token rank`` lines.

    The file says nothing of how text is split: GPT-2's rule is used, or cl100k's when the file is called
    ``cl100k*``. One ``<|endoftext|>`` is added after the last rank, as in OpenAI's encodings.

    Raises:
        InputError: unreadable or malformed file.
    """
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"Tokenizer file {path} cannot be read: {error.strerror}. Give the path of a .tiktoken file."
        ) from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise InputError(
                f"Tokenizer file {path}, line {number}: {line[:40]!r} is not 'base64-token rank'. "
                "Write one token a line, as tiktoken's own files do."
            ) from None
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise InputError(
            f"Tokenizer file {path} has no token for byte {missing[0]} ({len(missing)} of 256 are missing), "
            "so some text could not be encoded. Add every single byte."
        )
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise InputError(f"The ranks in tokenizer file {path} are not 0 to {len(ranks) - 1}, each once.")
    return tiktoken.Encoding(
        path.stem,
        pat_str=CL100K_PATTERN if path.stem.startswith("cl100k") else r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={ENDOFTEXT: len(ranks)},
    )
