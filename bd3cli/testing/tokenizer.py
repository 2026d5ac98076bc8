"""The laws of a tokenizer: what it decodes it encodes alike, bytes are counted, special ids stay special."""

from __future__ import annotations

from bd3cli.data import Tokenizer, load_tokenizer
from bd3cli.data.tokenizers.vocabulary import PROBES
from bd3cli.testing.law import Law, Laws, Outcome, run_laws


def check_tokenizer(spec: str) -> list[Law]:
    """Check every law of an installed tokenizer.

    Args:
        spec: its name, or ``"name:key=value"``.
    """
    return run_laws(spec, LAWS)


def sound(spec: str) -> Outcome:
    """Its attributes agree with one another."""
    t = load_tokenizer(spec)
    return True, f"{t.vocab_size} ids, BOS {t.bos_id}, EOS {t.eos_id}, mask {t.mask_id}"


def settled(spec: str) -> Outcome:
    """Text that comes of ids has those ids' text again: encoding loses nothing the second time."""
    t, lossless = load_tokenizer(spec), 0
    for text in PROBES:
        once = t.decode(t.encode(text))
        again = t.decode(t.encode(once))
        if once != again:
            return False, f"{text[:40]!r} decodes to {once[:40]!r}, and that to {again[:40]!r}"
        lossless += once == text
    return True, f"{lossless} of {len(PROBES)} texts come back whole"


def counted(spec: str) -> Outcome:
    """The bytes of ids add up to those of the text, wherever it comes back whole."""
    t = load_tokenizer(spec)
    for text in PROBES:
        ids = t.encode(text)
        counts, size = int(t.token_bytes[ids].sum()), len(text.encode())
        if t.decode(ids) == text and counts != size:
            return False, f"token_bytes gives {counts} bytes for {text[:40]!r}, which has {size}"
    special = sorted(t.special_ids)
    if t.token_bytes[special].any():
        return False, "special ids count no bytes: set token_bytes to 0 there"
    return True, f"bytes of {len(PROBES)} texts agree"


def special(spec: str) -> Outcome:
    """No text encodes to a special id, and special ids decode to nothing."""
    t = load_tokenizer(spec)
    for text in (*PROBES, "<|endoftext|>", "<s></s>[MASK][CLS][SEP]<mask><pad>"):
        found = sorted(t.special_ids.intersection(t.encode(text)))
        if found:
            return False, f"{text[:40]!r} encodes to the special id {found[0]}: special text is ordinary text here"
    told = t.decode(sorted(t.special_ids))
    return told == "", f"special ids decode to {told!r}" if told else "special ids stand for no text"


def stable(spec: str) -> Outcome:
    """Loaded again it is the same one."""
    first = load_tokenizer(spec)
    second: Tokenizer = load_tokenizer.__wrapped__(spec)
    same = first.fingerprint == second.fingerprint and all(first.encode(x) == second.encode(x) for x in PROBES)
    return same, "" if same else "loaded again it has another fingerprint or other ids: make it of its parameters alone"


def batched(spec: str) -> Outcome:
    """Texts encoded together are encoded as each alone."""
    t = load_tokenizer(spec)
    together = [ids.tolist() for ids in t.encode_batch(PROBES)]
    alike = together == [t.encode(text) for text in PROBES]
    return alike, "" if alike else "encode_batch gives other ids than encode_array"


LAWS: Laws[str] = (
    ("sound", sound),
    ("settled", settled),
    ("counted", counted),
    ("special", special),
    ("stable", stable),
    ("batched", batched),
)
