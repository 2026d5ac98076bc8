"""The data set of docs/plugins.md, as a distribution."""

from dataclasses import dataclass

from bd3cli import hookimpl
from bd3cli.data import Corpus
from bd3cli.parameters import parameter


@dataclass(frozen=True)
class Squares(Corpus):
    """Squares of whole numbers, written out."""

    count: int = parameter(1000, "how many", low=200)

    def read(self, split):
        texts = [f"{i} times {i} makes {i * i}." for i in range(self.count)]
        return {"train": texts[:-100], "validation": texts[-100:-50], "test": texts[-50:]}[split]


@hookimpl
def register_datasets(register):
    register("squares", Squares)
