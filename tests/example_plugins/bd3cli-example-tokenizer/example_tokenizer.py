"""The tokenizer of docs/plugins.md, as a distribution."""

from dataclasses import dataclass

from bd3cli import hookimpl
from bd3cli.data import VocabularyTokenizer


@dataclass(frozen=True)
class LowerCase(VocabularyTokenizer):
    """One id a byte of the text in lower case."""

    def pieces(self):
        return [bytes([byte]) for byte in range(256)]

    def ids(self, text):
        return list(text.lower().encode())


@hookimpl
def register_tokenizers(register):
    register("lower-case", LowerCase)
