"""Samplers, data sets and tokenizers of plugins: used from the command line, kept to their word, named when gone."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bd3cli.data import load_split, load_tokenizer
from bd3cli.errors import InputError
from bd3cli.faults import PluginError, blaming_plugins
from bd3cli.plugins import load_plugins
from bd3cli.plugins.kinds import KINDS
from bd3cli.plugins.scaffold import DEFAULT, scaffold
from bd3cli.recipes.settings import DataConfig
from bd3cli.sampling import Request, generate, make_request, samplers

EXAMPLES = Path(__file__).resolve().parents[1] / "example_plugins"
TUTORIAL = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
SMALL = ("train.steps=4", "train.batch_size=4", "train.validate_sequences=8", "train.validate_every=4",
         "model.hidden_size=32", "model.heads=2", "model.blocks=1", "model.cond_dim=8", "model.length=32")  # fmt: skip
ALL = ("sampler", "dataset", "tokenizer")
Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _fresh_tokenizers():
    load_tokenizer.cache_clear()
    yield
    load_tokenizer.cache_clear()


def install_examples(install: Install, *kinds: str, version: str = "0.1") -> None:
    for kind in kinds:
        (source,) = (EXAMPLES / f"bd3cli-example-{kind}").glob("*.py")
        install(f"bd3cli-example-{kind}", f"fake_{source.stem}", source.read_text(), version=version)


def test_the_examples_are_the_tutorials() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    for source in EXAMPLES.glob("*/*.py"):
        text = source.read_text(encoding="utf-8")
        (block,) = [b for b in blocks if (match := re.search(r"class \w+", text)) and match.group() in b]
        assert block[block.index("\n\n\n") :].rstrip() in text


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run trained on the example's data with the example's tokenizer, by now uninstalled."""
    from bd3cli.recipes.resolve import resolve
    from bd3cli.training.loop import train

    site, out = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("runs") / "run"
    for kind in ALL:
        (source,) = (EXAMPLES / f"bd3cli-example-{kind}").glob("*.py")
        (site / f"fake_{source.stem}.py").write_text(source.read_text())
        info = site / f"bd3cli_example_{kind}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: bd3cli-example-{kind}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[bd3cli]\nmain = fake_{source.stem}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("BD3CLI_CACHE", str(out.parent / "cache"))
        load_plugins.cache_clear()
        chosen = ("data.name=squares:count=400", "data.tokenizer=lower-case")
        train(resolve("tiny", overrides=[*SMALL, *chosen]), out)
    load_plugins.cache_clear()
    load_tokenizer.cache_clear()
    return out


def test_a_run_records_who_provided_its_data_and_tokenizer(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    for kind, name in (("dataset", "squares"), ("tokenizer", "lower-case")):
        assert record["uses"][kind] == {"name": name, "distribution": f"bd3cli-example-{kind}", "version": "0.1"}
    assert record["data"]["train"]["dataset"] == "squares:count=400"
    assert record["data"]["train"]["source"] == "bd3cli-example-dataset 0.1"
    # texts of 0 to 299, which only digits make longer: "i times i makes i*i."
    expected = sum(len(f"{i} times {i} makes {i * i}.") for i in range(300))
    assert record["data"]["train"]["bytes"] == record["data"]["train"]["tokens"] == expected


def test_they_are_used_from_the_command_line(run: Path, install: Install, cli) -> None:
    install_examples(install, *ALL)
    listed = {d["name"]: d for d in cli("data", "list", "--json").json["datasets"]}
    assert listed["squares"]["description"] == "Squares of whole numbers, written out."
    assert listed["squares"]["splits"] == ["train", "validation", "test"]
    shown = cli("data", "show", "squares:count=200", "--json")
    assert shown.json["documents"][2] == "2 times 2 makes 4."
    assert cli("eval", run, "--json", "--sequences", 4).json["tokens"] > 0
    made = cli("sample", run, "--sampler", "left-to-right:together=4", "--length", 16, "--json").json
    # four blocks of four, each in one evaluation
    assert made["nfe"] == 4
    assert made["sampler"] == "left-to-right:together=4"
    prepared = cli("data", "prepare", "squares:count=200", "--tokenizer", "lower-case", "--length", 16, "--json").json
    assert [row["documents"] for row in prepared["splits"]] == [100, 50, 50]
    plugins = {p["distribution"]: p for p in cli("plugins", "list", "--json").json["plugins"]}
    assert plugins["bd3cli-example-sampler"]["hooks"] == ["register_samplers"]
    assert {"first-hitting", "pydocs", "ag_news", "bytes", "gpt2"} <= set(plugins["bd3cli"]["provides"])


@pytest.mark.parametrize("arguments", [("eval",), ("sample",), ("checkpoint", "show")])
def test_a_run_without_its_tokenizer_names_the_package(run: Path, cli, arguments) -> None:
    done = cli(*arguments, run)
    assert done.code == 2
    assert "tokenizer 'lower-case' of bd3cli-example-tokenizer 0.1" in done.err
    assert "python -m pip install 'bd3cli-example-tokenizer==0.1'" in done.err


def test_a_run_without_its_data_set_names_the_package(run: Path, install: Install, cli, tmp_path: Path) -> None:
    install_examples(install, "tokenizer")
    missing = "data set 'squares' of bd3cli-example-dataset 0.1"
    for arguments in (("eval", run), ("finetune", run, "--out", tmp_path / "new"), ("train", "--resume", "--out", run)):
        done = cli(*arguments)
        assert done.code == 2
        assert missing in done.err, arguments
        assert "pip install 'bd3cli-example-dataset==0.1'" in done.err
    assert "or choose another with --data" in cli("finetune", run, "--out", tmp_path / "new").err
    # what does not need the data goes without it
    assert cli("sample", run, "--length", 8, "--json").json["samples"]
    assert cli("eval", run, "--data", "pydocs", "--sequences", 4, "--json").json["tokens"] > 0


def test_names_that_are_not_there_are_told_with_the_closest(install: Install) -> None:
    install_examples(install, *ALL)
    with pytest.raises(InputError, match=r"no data set.* 'square'\. Did you mean 'squares'\?.*plugins list"):
        load_split(DataConfig(name="square"), "train", 16)
    with pytest.raises(InputError, match=r"no tokenizer 'lower-cas'\. Did you mean 'lower-case'\?.*plugins list"):
        load_tokenizer("lower-cas")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("squares:size=3", "data set 'squares' has no parameter 'size'; its parameters are count"),
        ("squares:count=3", "data set 'squares': count must be at least 200, not be 3"),
        ("squares:count=many", "count of data set 'squares' must be a whole number, not 'many'"),
        ("pydocs:count=3", "'pydocs' takes no parameters"),
    ],
)
def test_parameters_of_a_data_set_are_checked(install: Install, spec: str, message: str) -> None:
    install_examples(install, "dataset")
    with pytest.raises(InputError, match=re.escape(message)):
        load_split(DataConfig(name=spec), "train", 16)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("left-to-right:apart=3", "sampler 'left-to-right' has no parameter 'apart'"),
        ("left-to-right:together=0", "Sampler 'left-to-right': together must be at least 1, not be 0"),
        ("first-hitting:together=2", "sampler 'first-hitting' has no parameter 'together'; it takes none"),
        ("left-to-rigt", "no sampler 'left-to-rigt'. Did you mean 'left-to-right'?"),
    ],
)
def test_parameters_of_a_sampler_are_checked(install: Install, make_model, spec: str, message: str) -> None:
    install_examples(install, "sampler")
    with pytest.raises(InputError, match=re.escape(message)):
        make_request(make_model(), load_tokenizer("bytes"), length=8, sampler=spec)


def test_a_plugin_is_no_familys_default(install: Install, make_model) -> None:
    install_examples(install, "sampler")
    assert next(samplers("bd3lm")) == "first-hitting"
    assert "left-to-right" in samplers("mdlm")
    assert "left-to-right" not in samplers("ar")
    with pytest.raises(InputError, match="serves bd3lm and mdlm networks; this one is ar"):
        make_request(make_model("ar"), load_tokenizer("bytes"), length=8, sampler="left-to-right")


# --- what is cached ---------------------------------------------------------------------------------------------

TEXTS = """
from dataclasses import dataclass
from bd3cli import hookimpl
from bd3cli.data import Corpus
@dataclass(frozen=True)
class C(Corpus):
    def read(self, split):
        return ["{text}" * 40]
@hookimpl
def register_datasets(register):
    register("fake-texts", C)
"""
LETTERS = """
from dataclasses import dataclass
from bd3cli import hookimpl
from bd3cli.data import VocabularyTokenizer
@dataclass(frozen=True)
class T(VocabularyTokenizer):
    def pieces(self):
        return [bytes([i]) for i in range(256)]
    def ids(self, text):
        return {ids}
@hookimpl
def register_tokenizers(register):
    register("fake-letters", T)
"""


def reinstall(tmp_path: Path, monkeypatch, name: str, source: str, version: str = "1") -> None:
    """As if the distribution had been replaced by another build."""
    site = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
    info = site / f"bd3cli_{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (site / f"fake_{name}.py").write_text(source)
    (info / "METADATA").write_text(f"Name: bd3cli-{name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[bd3cli]\nmain = fake_{name}\n")
    monkeypatch.setattr(sys, "path", [str(site), *(p for p in sys.path if not p.startswith(str(tmp_path)))])
    sys.modules.pop(f"fake_{name}", None)
    load_plugins.cache_clear()
    load_tokenizer.cache_clear()


def test_tokens_of_a_data_set_that_changed_are_made_again(tmp_path: Path, monkeypatch) -> None:
    reinstall(tmp_path, monkeypatch, "texts", TEXTS.format(text="old "))
    before = load_split(DataConfig(name="fake-texts"), "train", 16)
    reinstall(tmp_path, monkeypatch, "texts", TEXTS.format(text="new "))  # same name, same version
    after = load_split(DataConfig(name="fake-texts"), "train", 16)
    bytes_ = load_tokenizer("bytes")
    assert bytes_.decode(before.tokens([0])[0]) == ("old " * 4)[:15]
    assert bytes_.decode(after.tokens([0])[0]) == ("new " * 4)[:15]


def test_tokens_of_a_tokenizer_that_changed_are_made_again(tmp_path: Path, monkeypatch) -> None:
    config = DataConfig(tokenizer="fake-letters")
    seen = []
    for ids in ("list(text.encode())", "list(text.upper().encode())"):
        reinstall(tmp_path, monkeypatch, "letters", LETTERS.format(ids=ids))  # same name, same version
        seen.append((load_tokenizer("fake-letters").fingerprint, load_split(config, "test", 64).fingerprint))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_a_new_version_of_a_tokenizer_is_not_served_old_tokens(tmp_path: Path, monkeypatch) -> None:
    # Only a word that no fingerprint could know of is encoded otherwise; the versions differ.
    odd = "list(text.replace('assert', 'ASSERT').encode())"
    seen = []
    for version, ids in (("1", "list(text.encode())"), ("2", odd)):
        reinstall(tmp_path, monkeypatch, "letters", LETTERS.format(ids=ids), version)
        tokenizer = load_tokenizer("fake-letters")
        split = load_split(DataConfig(tokenizer="fake-letters"), "train", 64)
        text = "".join(tokenizer.decode(row) for row in split.tokens(range(len(split))))
        seen.append((tokenizer.fingerprint, "ASSERT" in text))
    assert seen[0][0] == seen[1][0]
    assert [found for _, found in seen] == [False, True]


# --- what they must give ----------------------------------------------------------------------------------------

SAMPLER = """
import torch
from bd3cli import hookimpl
from bd3cli.sampling import Batch, Blockwise, Rows
class S(Blockwise):
    def order(self, u):
        return u.argsort(-1)
{body}
@hookimpl
def register_samplers(register):
    register("fake-s", S)
"""
BROKEN_SAMPLERS = [
    ("    def order(self, u):\n        return u", r"order returned float64\[1, 4\]; .*int64\[1, 4\]"),
    ("    def order(self, u):\n        return [0]", r"order returned a list"),
    ("    def order(self, u):\n        return torch.zeros(2, dtype=torch.long)", r"order returned int64\[2\]"),
    ("    def accept(self, top):\n        return top > 2", "accept revealed nothing of a block"),
    ("    def accept(self, top):\n        return top > -2", "accept revealed positions whose turn it is not"),
    ("    def accept(self, top):\n        return None", "accept returned nothing"),
    ("    def step(self, watch):\n        pass", "step counted no network evaluation"),
    ("    def step(self, watch):\n        self.rows.nfe += 1\n        self.rows.known += 8", "among them the mask"),
    ("    def step(self, watch):\n        self.rows.nfe += 1\n        self.rows.known += 99", "nor pass the 8 tokens"),
    ("    def start(self, seeds):\n        return None", "start returned nothing"),
    ("    def start(self, seeds):\n        return Rows.start(seeds, (1,), 4, self.mask_id)", "8 were asked for"),
    ("    def start(self, seeds):\n        return Rows.start(seeds, (2,), 8, self.mask_id)", "do not begin with the"),
    ("    families = 'bd3lm'", "families of sampler 'fake-s' of bd3cli-fake 1.2 is 'bd3lm'"),
    ("    families = ()", r"is \(\); it must be a tuple"),
    ("    def order(self, u):\n        return u.nothing()", "raised AttributeError"),
]


@pytest.mark.parametrize(("body", "message"), BROKEN_SAMPLERS)
def test_a_sampler_that_breaks_its_word_is_blamed(install: Install, make_model, body: str, message: str) -> None:
    install("bd3cli-fake", "fake_sampler", SAMPLER.format(body=body))
    model, tokenizer = make_model(length=8), load_tokenizer("bytes")
    with pytest.raises(PluginError, match=message) as fault, blaming_plugins():
        generate(model, tokenizer, Request(8, (1,), "fake-s"))
    assert "'fake-s' of bd3cli-fake 1.2" in str(fault.value)


def test_a_sampler_may_build_on_the_step_of_another(install: Install, make_model) -> None:
    install(
        "bd3cli-fake", "fake_sampler", SAMPLER.format(body="    def step(self, watch):\n        super().step(watch)")
    )
    (sample,) = generate(make_model(length=8), load_tokenizer("bytes"), Request(8, (1,), "fake-s")).samples
    assert sample.length == 8


BROKEN_READS = [
    ("None", "read returned nothing for train; it must return a list of texts"),
    ("'text'", "read returned a str for train"),
    ("(t for t in 'ab')", "read returned a generator for train"),
    ("['a', 3]", "read returned an int as document 1 of train"),
    ("[b'a']", "read returned a bytes as document 0 of train"),
    ("self.nothing", "raised AttributeError"),
]


@pytest.mark.parametrize(("value", "message"), BROKEN_READS)
def test_a_data_set_that_breaks_its_word_is_blamed(install: Install, value: str, message: str) -> None:
    install("bd3cli-fake", "fake_texts", TEXTS.replace('["{text}" * 40]', value))
    with pytest.raises(PluginError, match=re.escape(message)) as fault, blaming_plugins():
        load_split(DataConfig(name="fake-texts"), "train", 16)
    assert "data set 'fake-texts' of bd3cli-fake 1.2" in str(fault.value)
    assert "fake_texts.py" in str(fault.value)


def test_a_data_set_says_which_splits_it_has(install: Install, cli) -> None:
    source = TEXTS.replace("    def read", '    splits = ("train", "test")\n    def read').format(text="some text ")
    install("bd3cli-fake", "fake_texts", source)
    done = cli("data", "show", "fake-texts", "--split", "validation")
    assert done.code == 2
    assert "'fake-texts' has no validation split, only train, test" in done.err
    prepared = cli("data", "prepare", "fake-texts", "--length", 16, "--json").json
    assert [row["split"] for row in prepared["splits"]] == ["train", "test"]


def test_wrong_splits_are_blamed(install: Install) -> None:
    source = TEXTS.replace("    def read", '    splits = ("train", "dev")\n    def read').format(text="some text ")
    install("bd3cli-fake", "fake_texts", source)
    with pytest.raises(InputError, match=r"splits of C of bd3cli-fake 1\.2 is \('train', 'dev'\)"):
        load_split(DataConfig(name="fake-texts"), "train", 16)


BROKEN_IDS = [
    ("list(range(300))", "ids returned the id 256; pieces have ids from 0 to 255"),
    ("[-1]", "ids returned the id -1"),
    ("[0.5]", "ids returned 0.5 among the ids"),
    ("text", "ids returned a str"),
    ("None", "ids returned nothing"),
    ("len(text)", "ids returned an int"),
    ("[['a']]", "ids returned ['a'] among the ids"),
    ("text.nothing()", "raised AttributeError"),
]


@pytest.mark.parametrize(("value", "message"), BROKEN_IDS)
def test_a_tokenizer_that_breaks_its_word_is_blamed(install: Install, value: str, message: str) -> None:
    install("bd3cli-fake", "fake_letters", LETTERS.format(ids=value))
    with pytest.raises(PluginError, match=re.escape(message)) as fault, blaming_plugins():
        load_tokenizer("fake-letters").encode("text")
    assert "tokenizer 'fake-letters' of bd3cli-fake 1.2" in str(fault.value)


BROKEN_PIECES = [
    ("[]", "pieces returned no pieces"),
    ("b'abc'", "pieces returned a bytes"),
    ("['a', 'b']", "pieces returned a str as piece 0; every piece must be bytes"),
    ("None", "pieces returned nothing"),
]


@pytest.mark.parametrize(("value", "message"), BROKEN_PIECES)
def test_pieces_must_be_bytes(install: Install, value: str, message: str) -> None:
    source = LETTERS.format(ids="[]").replace("[bytes([i]) for i in range(256)]", value)
    install("bd3cli-fake", "fake_letters", source)
    with pytest.raises(InputError, match=re.escape(message)):
        load_tokenizer("fake-letters")


WHOLE = """
from dataclasses import dataclass
import numpy as np
from bd3cli import hookimpl
from bd3cli.data import Tokenizer
@dataclass(frozen=True)
class T(Tokenizer):
    size = 3; bos_id = eos_id = 2; mask_id = 3; vocab_size = 4; fingerprint = "f"
    token_bytes = np.array([1, 1, 0, 0])
    special_ids = frozenset({{2, 3}})
    def encode_array(self, text):
        return np.array([int(c) for c in text if c in "01"], dtype=self.dtype)
    def _decode_run(self, ids):
        return "".join(map(str, ids))
    {change}
@hookimpl
def register_tokenizers(register):
    register("fake-letters", T)
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("vocab_size = 3", "vocab_size is 3; it must be one more than size, 3"),
        ("bos_id = None", "bos_id is None; it must be a whole number"),
        ("bos_id = 9", "bos_id is 9; it must lie from 0 to 3"),
        ("mask_id = 2", "mask_id is 2, which begins or ends documents"),
        ("eos_id = 1", "special_ids lacks eos_id, which is 1"),
        ("token_bytes = [1, 1, 0, 0]", "token_bytes must be an array of 4 whole numbers"),
        ("fingerprint = ''", "fingerprint must be a hash"),
        ("encode_array = lambda self, text: [0]", "returned a list"),
        ("encode_array = lambda self, text: np.array([7])", "returned the id 7; ids lie from 0 to 3"),
        ("encode_array = lambda self, text: np.array([0.5])", "returned float64[1]"),
    ],
)
def test_a_tokenizer_of_another_build_is_checked_too(install: Install, change: str, message: str) -> None:
    install("bd3cli-fake", "fake_letters", WHOLE.format(change=change))
    with pytest.raises(InputError, match=re.escape(message)) as fault:
        load_tokenizer("fake-letters").encode("01")
    assert "tokenizer 'fake-letters' of bd3cli-fake 1.2" in str(fault.value)


def test_a_sound_tokenizer_of_another_build_is_fine(install: Install) -> None:
    install("bd3cli-fake", "fake_letters", WHOLE.format(change="pass"))
    tokenizer = load_tokenizer("fake-letters")
    assert tokenizer.name == "fake-letters"
    assert tokenizer.encode("0110") == [0, 1, 1, 0]


def test_a_text_that_a_tokenizer_refuses_is_told_with_its_data(install: Install) -> None:
    refusing = LETTERS.replace("return {ids}", "raise InputError('it reads digits only.')")
    install("bd3cli-fake", "fake_letters", "from bd3cli.errors import InputError\n" + refusing)
    with pytest.raises(InputError, match="pydocs, test split: Tokenizer 'fake-letters': it reads digits only"):
        load_split(DataConfig(tokenizer="fake-letters"), "test", 64)


def test_what_encodes_in_another_process_is_blamed(install: Install) -> None:
    install("bd3cli-fake", "fake_letters", LETTERS.format(ids="list(text.encode()) if len(text) < 500 else text.no()"))
    with pytest.raises(PluginError, match=r"fake-letters' of bd3cli-fake 1\.2 raised AttributeError"):
        load_split(DataConfig(tokenizer="fake-letters", workers=2), "train", 64)


def test_names_are_taken_and_wrong_things_are_refused(install: Install) -> None:
    source = """
from bd3cli import hookimpl
@hookimpl
def register_tokenizers(register):
    register("gpt2", "fake_wrong:nothing")
@hookimpl
def register_samplers(register):
    register("with_underscore", "fake_wrong:nothing")
@hookimpl
def register_datasets(register):
    register("no_hub", "fake_wrong:INFO")
    register("not-one", "fake_wrong:NUMBER")
from bd3cli.data import DatasetInfo
INFO, NUMBER = DatasetInfo("other", "it says nothing of where it is"), 3
"""
    install("bd3cli-fake", "fake_wrong", source)
    (record,) = [r for r in load_plugins().imported() if r.distribution == "bd3cli-fake"]
    assert record.error is not None
    assert "tokenizer 'gpt2' is already provided by bd3cli" in record.error
    assert "'with_underscore' is not a name for a sampler" in record.error
    assert "data set 'not-one' of bd3cli-fake is 3, not a subclass of bd3cli.data.Corpus, nor an object" in record.error
    with pytest.raises(InputError, match="'no_hub' does not say where its text is"):
        load_split(DataConfig(name="no_hub"), "train", 16)


# --- the scaffold -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(kind.key,) for kind in KINDS] + [DEFAULT], ids="-".join)
def test_a_scaffold_of_each_kind_passes_its_own_tests(tmp_path: Path, monkeypatch, kinds: tuple[str, ...]) -> None:
    name = f"fake-{kinds[-1]}" if len(kinds) == 1 else "fake"
    written = scaffold(name, tmp_path, kinds)
    package = f"bd3cli_{name.replace('-', '_')}"
    assert {Path(package, f"{kind}.py") for kind in kinds} <= set(written)
    assert "@" not in re.sub("@(hookimpl|dataclass|pytest)", "", "".join((tmp_path / f).read_text() for f in written))
    info = tmp_path / f"{package}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: bd3cli-{name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[bd3cli]\n{name} = {package}\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins.cache_clear()
    (record,) = [r for r in load_plugins().imported() if r.distribution == f"bd3cli-{name}"]
    assert (record.error, set(record.provides)) == (None, {name})
    ran = 0
    for kind in kinds:
        for test in runpy.run_path(str(tmp_path / "tests" / f"test_{kind}.py")).values():
            if getattr(test, "__name__", "").startswith("test_"):
                marks = getattr(test, "pytestmark", [])
                for values in marks[0].args[1] if marks else [()]:
                    test(*([values] if marks else []))
                    ran += 1
    assert ran >= len(kinds)


def test_a_scaffold_of_no_kind_is_refused(cli, tmp_path: Path) -> None:
    done = cli("plugins", "new", "mine", "--kind", "samplers", "--out", tmp_path / "mine")
    assert done.code == 2
    assert "no kind of plugin 'samplers'. Did you mean 'sampler'?" in done.err
    assert not (tmp_path / "mine").exists()


def test_a_scaffold_may_have_a_name_that_another_kind_has(cli, tmp_path: Path) -> None:
    assert cli("plugins", "new", "cosine", "--kind", "dataset", "--out", tmp_path / "a", "--json").json["files"]
    taken = cli("plugins", "new", "cosine", "--kind", "dataset", "--kind", "schedule", "--out", tmp_path / "b")
    assert taken.code == 2
    assert "noise schedule 'cosine' is already provided by bd3cli" in taken.err
