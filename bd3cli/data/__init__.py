"""Data: from a name or a file to contexts of token ids.

`load_split` gives the contexts of one split, tokenised once and cached; `load_tokenizer` goes between text
and ids; `resolve_documents` shows the documents themselves; `list_datasets` names the registered data sets;
`overlap_of_splits` tells how much held-out text stands in the training text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bd3cli.data.cache import default_directory
from bd3cli.data.corpora import Corpus, DatasetInfo, Hub, Part, list_datasets
from bd3cli.data.detokenizers import get_detokenizer
from bd3cli.data.documents import Documents, Mapped
from bd3cli.data.loading import PackedSplit, load_split
from bd3cli.data.overlap import overlap_of_splits
from bd3cli.data.sources import resolve
from bd3cli.data.spans import Spans
from bd3cli.data.splits import Split, split_documents
from bd3cli.data.tokenizers.base import Tokenizer
from bd3cli.data.tokenizers.load import load_tokenizer
from bd3cli.data.tokenizers.vocabulary import VocabularyTokenizer

if TYPE_CHECKING:
    from bd3cli.recipes.settings import DataConfig

__all__ = [
    "Corpus",
    "DatasetInfo",
    "Documents",
    "Hub",
    "PackedSplit",
    "Part",
    "Spans",
    "Split",
    "Tokenizer",
    "VocabularyTokenizer",
    "list_datasets",
    "load_split",
    "load_tokenizer",
    "overlap_of_splits",
    "resolve_documents",
    "split_documents",
]


def resolve_documents(config: DataConfig, split: Split) -> Documents:
    """The documents of a split, read lazily, with a `description` of where they came from.

    Raises:
        InputError: as `load_split` does.
    """
    source = resolve(config, split, default_directory())
    documents, facts = source.read()
    detokenize = get_detokenizer(source.detokenizer)
    if detokenize is not None:
        documents = Mapped(documents, detokenize)
    documents.description = {**source.facts, **facts, "documents": len(documents)}
    return documents
