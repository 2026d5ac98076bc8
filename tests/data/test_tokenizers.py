"""Tokenizers: round trips, special ids, local files, and what happens without a network."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from bd3cli.data import load_split, load_tokenizer
from bd3cli.data.tokenizers.files import PUBLIC_FILES, _is_cached
from bd3cli.data.tokenizers.tiktoken import BytesTokenizer
from bd3cli.errors import InputError
from bd3cli.recipes.settings import DataConfig

BYTES = BytesTokenizer()


def test_bytes_has_256_ids_bos_eos_and_a_mask() -> None:
    t = load_tokenizer("bytes")
    assert (t.bos_id, t.eos_id, t.mask_id, t.size, t.vocab_size) == (256, 257, 258, 258, 259)
    assert t.token_bytes.tolist() == [1] * 256 + [0, 0, 0]
    assert t.dtype == np.uint16


@given(st.text())
def test_bytes_round_trip_and_agreement_with_its_encoding(text: str) -> None:
    ids = BYTES.encode(text)
    assert ids == list(text.encode()) == BYTES._encoding.encode_ordinary(text)
    assert BYTES.decode(ids) == text
    assert BYTES.token_bytes[ids].sum() == len(text.encode())


def test_text_that_looks_special_is_ordinary(merges_file: Path) -> None:
    for tokenizer in (BYTES, load_tokenizer(str(merges_file))):
        for text in ("<|endoftext|>", "<|bos|>", "<|eos|>"):
            ids = tokenizer.encode(text)
            assert not set(ids) & {tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id}
            assert tokenizer.decode(ids) == text


def test_surrogates_are_joined_or_replaced() -> None:
    assert BYTES.decode(BYTES.encode("\ud83d\ude00")) == "😀"
    assert BYTES.decode(BYTES.encode("a\ud800b")) == "a�b"


def test_decoding_drops_special_ids_and_replaces_invalid_utf8() -> None:
    assert BYTES.decode([256, 72, 258, 105, 257]) == "Hi"
    assert BYTES.decode([0xE6, 72]) == "�H"
    assert BYTES.decode(np.array([72, 105])) == "Hi"


def test_masks_are_shown_where_they_are() -> None:
    ids = [256, 72, 258, 258, *"é".encode(), 258, 257]
    assert BYTES.decode_with_masks(ids) == "H░░é░"
    assert BYTES.decode_with_masks(ids, "_") == "H__é_"
    # A character whose bytes are not all there yet is not text yet.
    assert BYTES.decode_with_masks([0xC3, 258]) == "�░"


def test_local_file(merges_file: Path) -> None:
    t = load_tokenizer(str(merges_file))
    end = 256 + 12
    assert (t.bos_id, t.eos_id, t.mask_id, t.vocab_size) == (end, end, end + 1, end + 2)
    ids = t.encode(" the and")
    assert ids == [258, 261]
    assert t.token_bytes[ids].tolist() == [4, 4]
    assert t.decode(ids) == " the and"
    assert [a.tolist() for a in t.encode_batch(["the", "", "in"])] == [[257], [], [262]]


def test_local_file_is_read_again_when_it_changes(merges_file: Path, ranks_file: Callable[[list[bytes]], Path]) -> None:
    first = load_tokenizer(str(merges_file)).fingerprint
    load_tokenizer.cache_clear()
    ranks_file([b"zz"])
    assert load_tokenizer(str(merges_file)).fingerprint != first
    assert load_tokenizer("bytes").fingerprint not in (first, load_tokenizer(str(merges_file)).fingerprint)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"!!! 0\n", "line 1"),
        (b"YQ== zero\n", "line 1"),
        (b"YQ== 0\nYg==\n", "line 2"),
        (b"YQ== 0\n", "no token for byte 0"),
        (b"", "no token for byte 0"),
    ],
)
def test_malformed_file(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(content)
    with pytest.raises(InputError, match=cause):
        load_tokenizer(str(path))


def test_ranks_with_a_gap(merges_file: Path) -> None:
    merges_file.write_text(merges_file.read_text().replace(" 260\n", " 999\n"))
    with pytest.raises(InputError, match="each once"):
        load_tokenizer(str(merges_file))


def test_a_file_does_not_hide_an_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "bytes", "other"):
        (tmp_path / name).write_text("not ranks")
    asked: list[str] = []
    monkeypatch.setattr(
        "bd3cli.data.tokenizers.tiktoken.load_encoding", lambda name: (asked.append(name), BYTES._encoding)[1]
    )
    with pytest.raises(InputError, match=r"no <\|endoftext\|> token"):
        load_tokenizer("gpt2")
    assert asked == ["gpt2"]
    assert load_tokenizer("bytes").vocab_size == 259
    with pytest.raises(InputError, match="other, line 1"):
        load_tokenizer("other")


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.tiktoken cannot be read: No such file"):
        load_tokenizer("nowhere.tiktoken")


def test_vocabulary_beyond_16_bits(tmp_path: Path, ranks_file: Callable[[list[bytes]], Path]) -> None:
    extra = [bytes([n >> 16, n >> 8 & 255, n & 255, 255]) for n in range(70_000)]
    big = load_tokenizer(str(ranks_file(extra)))
    assert big.dtype == np.uint32
    # The last token holds a byte that no UTF-8 has, so its id comes from BOS and EOS here.
    (tmp_path / "a.txt").write_text("some text to pack " * 30)
    split = load_split(DataConfig(name=str(tmp_path / "a.txt"), tokenizer=big.name), "train", 16)
    assert split.tokens([0])[0, 0] == big.bos_id == 70_256


def test_unknown_name_suggests_one() -> None:
    with pytest.raises(InputError, match="Did you mean 'gpt2'"):
        load_tokenizer("gpt-2")
    with pytest.raises(InputError, match="Did you mean 'bytes'"):
        load_tokenizer("byte")


@pytest.mark.usefixtures("offline")
def test_offline_encoding_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "gpt2", None)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be reached.*'bytes'.*TIKTOKEN_CACHE_DIR"):
        load_tokenizer("gpt2")
    assert time.monotonic() - begin < 2
    assert not list(tmp_path.glob("*tmp*"))


@pytest.mark.usefixtures("offline")
def test_damaged_cached_file_is_left_alone_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # tiktoken deletes a file that does not match before it tries to fetch another.
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    (url,) = PUBLIC_FILES["cl100k_base"]
    cached = tmp_path / hashlib.sha1(url.encode()).hexdigest()
    cached.write_bytes(b"damaged")
    with pytest.raises(InputError, match="not intact"):
        load_tokenizer("cl100k_base")
    assert cached.read_bytes() == b"damaged"


def test_cached_files_are_known_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    url = "https://example.org/some.tiktoken"
    (tmp_path / hashlib.sha1(url.encode()).hexdigest()).write_bytes(b"content")
    assert _is_cached(url, hashlib.sha256(b"content").hexdigest())
    assert not _is_cached(url, hashlib.sha256(b"other").hexdigest())
    assert not _is_cached(url + "x", hashlib.sha256(b"content").hexdigest())


def test_public_files_are_those_tiktoken_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiktoken_ext import openai_public

    asked: dict[str, str] = {}

    def bpe(url: str, expected_hash: str) -> dict[bytes, int]:
        asked[url] = expected_hash
        return {}

    def gym(vocab_bpe_file: str, encoder_json_file: str, vocab_bpe_hash: str, encoder_json_hash: str) -> object:
        asked.update({vocab_bpe_file: vocab_bpe_hash, encoder_json_file: encoder_json_hash})
        return {}

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", bpe)
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", gym)
    assert set(openai_public.ENCODING_CONSTRUCTORS) <= set(PUBLIC_FILES)
    for name, constructor in openai_public.ENCODING_CONSTRUCTORS.items():
        asked.clear()
        constructor()
        assert asked == PUBLIC_FILES[name]


def test_gpt2_has_the_ids_of_published_checkpoints(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_data / "tiktoken-cache"
    if not source.is_dir():
        pytest.skip("no copy of the gpt2 encoding")
    shutil.copytree(source, tmp_path / "tiktoken", copy_function=shutil.copyfile)
    (tmp_path / "tiktoken").chmod(0o755)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    t = load_tokenizer("gpt2")
    assert (t.bos_id, t.eos_id, t.mask_id, t.vocab_size) == (50256, 50256, 50257, 50258)
    assert t.encode("Hello world") == [15496, 995]
    assert 50256 not in t.encode("<|endoftext|>")
    text = "naïve  日本\n\n\tx"
    assert t.decode([50256, *t.encode(text), 50257]) == text
    assert t.token_bytes[t.encode(text)].sum() == len(text.encode())
    assert t.token_bytes[50256:].tolist() == [0, 0]


class FakeWordPiece:
    """As much of a fast `transformers` tokenizer as is used, over a few words."""

    words = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "hell", "##o", "wörld")
    is_fast = True
    bos_token_id = eos_token_id = None
    cls_token_id, sep_token_id, mask_token_id = 1, 2, 3
    all_special_ids = (0, 1, 2, 3)
    backend_tokenizer = types.SimpleNamespace(
        decoder=type("WordPiece", (), {})(), to_str=lambda: "the whole definition"
    )

    def __len__(self) -> int:
        return len(self.words)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.words[i] for i in ids]

    def __call__(self, texts: list[str], **options: object) -> dict[str, list[list[int]]]:
        assert options["add_special_tokens"] is False
        assert options["split_special_tokens"] is True
        return {"input_ids": [[4, 5, 6] if text else [] for text in texts]}

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        return " ".join(self.words[i] for i in ids).replace(" ##", "")


@pytest.fixture
def fake_transformers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = []

    def from_pretrained(name: str, **options: object) -> FakeWordPiece:
        calls.append({"name": name, **options})
        if name != "bert":
            raise OSError("no such file\nand more")
        return FakeWordPiece()

    auto = types.SimpleNamespace(from_pretrained=from_pretrained)
    module = types.ModuleType("transformers")
    module.AutoTokenizer = auto  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    return calls


@pytest.mark.usefixtures("offline")
def test_hf_tokenizer_with_a_mask_of_its_own(fake_transformers: list[dict[str, object]]) -> None:
    t = load_tokenizer("hf:bert")
    assert fake_transformers == [{"name": "bert", "local_files_only": True}]
    assert (t.bos_id, t.eos_id, t.mask_id, t.size, t.vocab_size) == (1, 2, 3, 6, 7)
    assert t.encode("hello wörld") == [4, 5, 6]
    assert t.token_bytes.tolist() == [0, 0, 0, 0, 5, 1, 7]
    assert t.decode([1, 4, 5, 3, 6, 2]) == "hello wörld"
    assert t.decode_with_masks([1, 4, 5, 3, 6, 2]) == "hello░wörld"


@pytest.mark.usefixtures("offline", "fake_transformers")
def test_hf_tokenizer_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"hub cannot be reached.*hf:DIRECTORY"):
        load_tokenizer("hf:other")


def test_hf_tokenizer_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"bd3cli\[hf\]"):
        load_tokenizer("hf:bert")
