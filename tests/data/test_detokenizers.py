"""Detokenizers, by example: each is part of the definition of a published number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bd3cli.data.detokenizers import DETOKENIZERS, get_detokenizer
from bd3cli.errors import InputError


@pytest.mark.parametrize(
    ("name", "tokens", "text"),
    [
        ("wikitext", "an up @-@ to @-@ date 1 @,@ 000 @.@ 5 count", "an up-to-date 1,000.5 count"),
        ("wikitext", "so , he said : no ; why ? Because .", "so, he said: no; why? Because ."),
        ("wikitext", 'a ( b c ) [ d ] { e } " f g " h', 'a (b c) [d] {e} "f g" h'),
        ("wikitext", "the dogs ' bone", "the dogs' bone"),
        ("wikitext", "Tom 's bone", "Tom's bone"),
        # Two apostrophes pass for quotation marks, as they do in the literature's numbers.
        ("wikitext", "the dogs ' bone is Tom 's", "the dogs'bone is Tom's"),
        ("wikitext", " = = = Life = = = \n Born", " === Life ===\nBorn"),
        ("wikitext", "90 ° N of it", "90°N of it"),
        ("ptb", "mr. <unk> paid $ N for N N shares", "mr. ? paid $1 for 1 1 shares"),
        (
            "ptb",
            "he did n't see it 's 1\\/2 of the boys ' \n end",
            "he didn't see it's 1/2 of the boys'\nend",
        ),
        ("lm1b", "He 's here , she said .", "He's here, she said."),
        ("lm1b", "What ? No ! Yes .", "What? No! Yes."),
        ("lm1b", "see http : / / a.b / c and https : / / d", "see http://a.b/c and https://d"),
        ("lm1b", 'a " b c " ( d ) [ e ] $ 5 or £ 6', 'a "b c" (d) [e] $5 or £6'),
        ("lambada", " “ no , ” he said \n", '\n" no , " he said'),
        ("scientific", "a @-@ b ( c ) costs $ 5 .", "a-b (c) costs $5."),
    ],
)
def test_examples(name: str, tokens: str, text: str) -> None:
    assert DETOKENIZERS[name](tokens) == text


@given(st.sampled_from(sorted(DETOKENIZERS)), st.text("abcd '\n", max_size=60))
def test_words_are_never_lost(name: str, text: str) -> None:
    def letters(t: str) -> list[str]:
        return [c for c in t if c.isalnum()]

    assert letters(DETOKENIZERS[name](text)) == letters(text)


def test_none_and_unknown() -> None:
    assert get_detokenizer("none") is None
    with pytest.raises(InputError, match="Did you mean 'wikitext'"):
        get_detokenizer("wikitext2")
