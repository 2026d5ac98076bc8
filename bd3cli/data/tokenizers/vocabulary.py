"""A tokenizer made of a list of pieces: what an author of a plugin writes is the list, and how text falls into it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from bd3cli.data.tokenizers.base import IdArray, TextError, Tokenizer, valid_unicode
from bd3cli.errors import InputError
from bd3cli.faults import PluginError, broken, kind_of
from bd3cli.hashing import digest
from bd3cli.parameters import check_ranges

# Every printable character of ASCII alone and among others, other scripts, white space and nothing: two versions of
# a tokenizer that encode these alike are taken for one.
PROBES = (
    "",
    " ".join(map(chr, range(33, 127))),
    "".join(map(chr, range(127))),
    "The quick brown fox, aged 12 3/4, jumps over\n\n  the lazy dog's tail; isn't it?\tYes!",
    "naïve café, Ελληνικά, русский, 中文字, हिन्दी, العربية, \N{GRINNING FACE} e\u0301",
)


class VocabularyTokenizer(Tokenizer):
    """Ids 0, 1, ... stand for `pieces()`; one id after them begins and ends documents, and the next is the mask.

    A subclass is a frozen dataclass, whose fields are its parameters. The fingerprint is made of the pieces, the
    parameters, and what the tokenizer makes of a few texts.

    Attributes:
        table: the pieces.
    """

    table: tuple[bytes, ...]

    @abstractmethod
    def pieces(self) -> Sequence[bytes]:
        """The UTF-8 bytes each id stands for, in the order of ids; asked once."""

    @abstractmethod
    def ids(self, text: str) -> Sequence[int]:
        """The ids of a text: numbers of pieces."""

    def __post_init__(self) -> None:
        check_ranges(self)
        table, set_ = self._table(self.pieces()), partial(object.__setattr__, self)  # even where it is frozen
        set_("table", table)
        set_("name", type(self).__name__)
        set_("bos_id", len(table))
        set_("eos_id", len(table))
        set_("size", len(table) + 1)
        set_("mask_id", len(table) + 1)
        set_("vocab_size", len(table) + 2)
        set_("token_bytes", np.array([*map(len, table), 0, 0], dtype=np.int64))
        set_("fingerprint", self._fingerprint())

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset({self.bos_id, self.mask_id})

    def encode_array(self, text: str) -> IdArray:
        try:
            found: Any = self.ids(valid_unicode(text))
        except PluginError:
            raise
        except InputError as error:  # so that whoever knows where the text came from adds that
            raise TextError(f"Tokenizer {self.name!r}: {error}") from error
        if isinstance(found, (str, bytes)) or not isinstance(found, (Sequence, np.ndarray)):
            wrong = f"returned {kind_of(found)}; it must return a list of whole numbers"
            raise broken(type(self).ids, wrong, type(self))
        array = np.asarray(found) if len(found) else np.zeros(0, dtype=self.dtype)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            wrong = f"returned {found[0]!r} among the ids; each must be a whole number"
            raise broken(type(self).ids, wrong, type(self))
        outside = array[(array < 0) | (array >= len(self.table))]
        if len(outside):
            wrong = f"returned the id {outside[0]}; pieces have ids from 0 to {len(self.table) - 1}"
            raise broken(type(self).ids, wrong, type(self))
        return array.astype(self.dtype)

    def _decode_run(self, ids: Sequence[int]) -> str:
        return b"".join([self.table[i] for i in ids]).decode("utf-8", "replace")

    def _table(self, pieces: Any) -> tuple[bytes, ...]:
        if isinstance(pieces, (str, bytes)) or not isinstance(pieces, Sequence) or not pieces:
            wrong = f"returned {kind_of(pieces) if pieces or pieces is None else 'no pieces'}"
            raise broken(type(self).pieces, f"{wrong}; it must return a list of bytes, one an id", type(self))
        for index, piece in enumerate(pieces):
            if not isinstance(piece, bytes):
                wrong = f"returned {kind_of(piece)} as piece {index}; every piece must be bytes"
                raise broken(type(self).pieces, wrong, type(self))
        return tuple(pieces)

    def _fingerprint(self) -> str:
        pieces = [piece.hex() for piece in self.table]
        parameters = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return digest({"pieces": pieces, "parameters": parameters, "probes": [self._probe(text) for text in PROBES]})

    def _probe(self, text: str) -> list[int] | str:
        try:
            return self.encode(text)
        except PluginError:
            raise
        except InputError:  # it takes some texts only, which is a property of it like any other
            return "refused"
