"""A vocabulary nobody named."""

from __future__ import annotations

import pytest

from bd3cli.data import load_tokenizer
from bd3cli.errors import InputError


def test_ids_are_their_own_text() -> None:
    t = load_tokenizer("ids:300")
    assert (t.size, t.mask_id, t.vocab_size, t.bos_id, t.eos_id) == (300, 300, 301, 299, 299)
    assert t.encode("0 17\n298  5") == [0, 17, 298, 5]
    assert t.decode([299, 0, 17, 298, 5, 300]) == "0 17 298 5"
    assert t.encode(t.decode(range(299))) == list(range(299))
    assert "░" in t.decode_with_masks([1, 300, 300, 2])
    assert load_tokenizer("ids:301").fingerprint != t.fingerprint


@pytest.mark.parametrize("text", ["300", "-1", "word", "1.5", "99999999999999999999", "²"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="from 0 to 299 separated by spaces"):
        load_tokenizer("ids:300").encode(text)


@pytest.mark.parametrize("name", ["ids:", "ids:1", "ids:x", "ids:-4", "ids:999999999"])
def test_a_number_of_ids_is_needed(name: str) -> None:
    with pytest.raises(InputError, match="must be ids:N"):
        load_tokenizer(name)
