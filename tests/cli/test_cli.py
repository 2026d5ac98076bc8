"""The command line as a user meets it: conventions, JSON, exit codes, messages."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

NAME = "n" * 300  # longer than a file's name can be
HEAVY = ("torch", "datasets", "xformers", "scipy", "numpy", "tiktoken")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["schedules", "--help"],
        ["plugins", "list", "--help"],
        ["zeroshot", "--help"],
        ["eval", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom bd3cli.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as e: assert not e.code, e.code\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert python(code).strip().endswith("HEAVY []")


def test_help_is_instant() -> None:
    """Under four times `import typer`, medians of interleaved runs."""
    typer, ours = [], []
    for _ in range(7):
        for command, times in (
            ([sys.executable, "-c", "import typer"], typer),
            ([sys.executable, "-m", "bd3cli", "--help"], ours),
        ):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
    assert statistics.median(ours) < 4 * statistics.median(typer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command"),
        (["train", "--blok-size", "4"], "No such option"),
        (["train", "--steps", "many"], "should be a valid integer"),
        (["train", "tny"], "no recipe 'tny'. Did you mean 'tiny'"),
        (["train", "missing.toml"], "missing.toml cannot be read: No such file"),
        (["train", "--set", "train.step=5"], "Did you mean 'train.steps'"),
        (["train", "--set", "train.steps=five"], "must be a whole number, not 'five'"),
        (["train", "--block-size", "5"], "does not divide model.length 128"),
        (["train", "--family", "gpt"], "objective.family cannot be 'gpt'"),
        (["train", "--schedule", "cosin"], "no noise schedule 'cosin'. Did you mean 'cosine'"),
        (["train", "--schedule", "cosine:epsilon=1"], "has no parameter 'epsilon'"),
        (["train", "--schedule", "cosine:eps=2"], "eps must lie"),
        (["train", "--masking", "count", "--schedule", "cosine"], "has no effect with masking 'count'"),
        (["train", "--schedule", "full"], "defined for block size 1 only"),
        (["train", "--clip", "0.8,0.3"], "is not an interval"),
        (["train", "--clip", "a,b"], "two numbers such as 0.3,0.8"),
        (["train", "--attention", "cuda"], "cuda"),
        (["train", "--attention", "flex"], "flex"),
        (["train", "--device", "cuda:7"], "Device 'cuda:7' cannot be used"),
        (["train", "--precision", "fp8"], "train.precision cannot be 'fp8'"),
        (["train", "--tokenizer", "gpt5"], "gpt5"),
        (["train", "--data", "no/such/place.txt"], "no/such/place.txt"),
        (["train", "--data", "wikitext3"], "wikitext3"),
        (["train", "--resume"], "add --out RUN"),
        (["train", "--resume", "--out", "nowhere"], "nowhere is not a run"),
        (["eval", "nowhere"], "nowhere is not a run"),
        (["eval", "nowhere", "--split", "tset"], "no split 'tset'"),
        (["sample", "nowhere"], "nowhere is not a run"),
        (["sample", "nowhere", "--num", "0"], "--num"),
        (["config", "show", "--set", "x=1"], "no setting 'x'"),
        (["data", "show", "nothing-like-it"], "nothing-like-it"),
        (["data", "show", "pydocs", "--split", "all"], "no split 'all'"),
        (["train", "--length", "9" * 20], "model.length must be at most 10,000,000, not 9999"),
        (["train", "--batch-size", "1000000000000"], "train.batch_size must be at most 10,000,000, not 1000000000000"),
        (["train", "--set", "model.blocks=1000000000000"], "model.blocks must be at most 10,000, not 1000000000000"),
        (["train", "--steps", "1" + "0" * 30], "train.steps must be at most 1,000,000,000,000,000, not 1000"),
        (["train", "--set", f"train.steps={'9' * 5000}"], "must be a whole number, not '9999"),
        (["bench", "attention", "--length", "9" * 20], "A number is too large to work with"),
        (["train", "--out", NAME], "File name too long. Give another one."),
        (["train", "--out", "a/" * 3000], "File name too long. Give another one."),
        (["train", "--out", "run\udcff"], "is not a name in UTF-8, which checkpoints need. Choose another --out."),
        (["train", NAME], "File name too long"),
        (["eval", NAME], "File name too long"),
        (["sample", NAME], "File name too long"),
        (["finetune", NAME, "--out", "new"], "File name too long"),
        (["data", "show", NAME], "File name too long"),
        (["runs", "list", NAME], "File name too long"),
        (["checkpoint", "import", NAME, "--out", "new"], "File name too long"),
        (["plugins", "new", "x", "--out", NAME], "File name too long"),
        (["config", "show", NAME], "File name too long"),
        (["schedules", "plot", "cosine", "--png", NAME], "File name too long. Choose another --png."),
    ],
)
def test_a_mistake_gives_one_message_and_exit_code_2(cli, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli(*arguments)
    assert outcome.code == 2, outcome
    assert message in re.sub(r"[\s│]+", " ", outcome.err)
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert len(outcome.err) < 2000, "a long value is shortened"
    assert list(tmp_path.iterdir()) == [], "a mistake leaves nothing behind"


def test_debug_shows_the_traceback_wherever_it_stands(cli, monkeypatch) -> None:
    for arguments in (["--debug", "eval", "nowhere"], ["eval", "nowhere", "--debug"]):
        monkeypatch.delenv("BD3CLI_DEBUG", raising=False)
        outcome = cli(*arguments)
        monkeypatch.delenv("BD3CLI_DEBUG", raising=False)
        assert outcome.code == 2
        assert "Traceback" in outcome.err
        assert "nowhere is not a run" in outcome.err


def test_train_eval_sample_as_a_script_uses_them(cli, tmp_path: Path, quick) -> None:
    run = tmp_path / "run"
    settings = [f for item in (*quick, "train.steps=20") for f in ("--set", item)]
    trained = cli("train", "--out", run, "--json", *settings).json
    assert trained["run"] == str(run)
    assert trained["validation"]["ppl"] > 1
    assert len(trained["sample"]) > 0
    row = cli("eval", run, "--sequences", 20, "--json").json
    assert row["ci95"][0] < row["ppl"] < row["ci95"][1]
    assert row["sequences"] == 20
    assert row["tokens"] == 20 * 31
    assert (row["family"], row["block_size"], row["estimator"], row["exact"]) == ("bd3lm", 4, "count", False)
    assert row["bits_per_byte"] > 0
    both = cli("eval", run, run, "--sequences", 10, "--estimator", "exact", "--json").json["rows"]
    assert both[0] == both[1]
    assert both[0]["exact"]
    samples = cli("sample", run, "--num", 3, "--length", 20, "--seed", 7, "--json").json
    assert [s["seed"] for s in samples["samples"]] == [7, 8, 9]
    assert all(s["length"] == len(s["tokens"]) == 20 and s["stop"] == "length" for s in samples["samples"])
    assert samples["tokens_per_second"] > 0
    again = cli("sample", run, "--num", 1, "--length", 20, "--seed", 8, "--no-cache", "--json").json
    assert again["samples"][0] == samples["samples"][1]
    resumed = cli("train", "--resume", "--out", run, "--steps", 25, "--json").json
    assert resumed["step"] == 25
    refused = cli("train", "--out", run, *settings)
    assert refused.code == 2
    assert "already exists and is not empty" in refused.err


def test_people_get_text_on_stdout_and_progress_on_stderr(cli, trained: Path) -> None:
    table = cli("eval", trained, "--sequences", 10)
    assert table.code == 0
    assert "ppl" in table.out
    assert "count (upper bound)" in table.out
    text = cli("sample", trained, "--prompt", "The ", "--num", 2)
    assert text.out.count("The ") >= 2
    assert "network evaluations each" in text.err
    assert "network evaluations" not in text.out


def test_a_file_given_to_eval_is_used_whole(cli, trained: Path, tmp_path: Path) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 60
    (tmp_path / "other.txt").write_text(text)
    row = cli("eval", trained, "--data", tmp_path / "other.txt", "--json").json
    assert row["tokens"] == len(text) // 31 * 31
    (tmp_path / "table.csv").write_text("id,body\n" + "\n".join(f"{i},{text[:90]}" for i in range(30)) + "\n")
    assert "Its columns are id, body" in cli("eval", trained, "--data", tmp_path / "table.csv").err
    assert cli("eval", trained, "--data", tmp_path / "table.csv", "--column", "body", "--json").json["tokens"] > 2000


def test_a_run_is_not_measured_on_text_that_was_divided_otherwise(cli, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(trained, run)
    record = json.loads((run / "run.json").read_text())
    assert "share a run of 100 characters" in record["data"]["train"]["split_policy"]
    record["data"]["train"]["split_policy"] = "90/5/5 by bytes: in the order of a hash of their text, documents ..."
    (run / "run.json").write_text(json.dumps(record))
    (tmp_path / "other.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)
    for split in ("validation", "test"):
        refused = cli("eval", run, "--split", split)
        assert refused.code == 2
        assert f"its {split} text now may be text it was trained on. Give other text with --data" in refused.err
    assert cli("eval", run, "--data", tmp_path / "other.txt").code == 0
    assert cli("eval", run, "--split", "train", "--sequences", 4).code == 0


def test_data_and_config_commands(cli) -> None:
    names = [d["name"] for d in cli("data", "list", "--json").json["datasets"]]
    assert {"pydocs", "lm1b", "wikitext2", "lambada"} <= set(names)
    shown = cli("data", "show", "pydocs", "--num", 1, "--json").json
    assert len(shown["documents"]) == 1
    prepared = cli("data", "prepare", "pydocs", "--length", 64, "--json").json["splits"]
    assert [s["split"] for s in prepared] == ["train", "validation", "test"]
    assert len({s["fingerprint"] for s in prepared}) == 3
    config = cli("config", "show", "lm1b-bd3lm-4", "--set", "train.steps=9", "--json").json
    assert config["values"]["train.steps"] == 9
    assert config["sources"]["train.steps"] == "--set"
    assert config["values"]["objective.clip"] == [0.45, 0.95]
    assert "objective.block_size" in cli("config", "show").out
    assert "steps = 1000000" in cli("config", "show", "owt-ar", "--toml").out
    assert cli("config", "validate", "owt-bd3lm-16").out == "owt-bd3lm-16: valid\n"
    assert {"tiny", "owt-mdlm"} <= {r["name"] for r in cli("config", "list", "--json").json["recipes"]}


def test_data_prepare_tells_of_held_out_text_in_train(cli, tmp_path: Path, caplog) -> None:
    texts = ["".join(random.Random(n).choices("abcdefgh ", k=400)) for n in range(40)]
    for name, chosen in (("train", texts[:30]), ("valid", texts[27:31]), ("test", texts[30:])):
        rows = "".join(json.dumps({"body": text}) + "\n" for text in chosen)
        (tmp_path / f"{name}-00000-of-00001.jsonl").write_text(rows)
    (tmp_path / "README.md").write_text("about it")
    column = ("--set", "data.column=body", "--length", 32)
    done = cli("data", "prepare", tmp_path, *column)
    assert caplog.text.count("left out 1 about the data (README.md)") == 1
    assert "warning: 75.0% of the validation text stands in the training text" in done.err
    assert "of the test text" not in done.err
    assert "75.00%" in done.out
    rows = cli("data", "prepare", tmp_path, *column, "--json").json["splits"]
    assert [row["overlap_with_train"] and row["overlap_with_train"]["share"] for row in rows] == [None, 0.75, 0.0]
    assert rows[1]["overlap_with_train"]["repeated_characters"] == 1200
    without = cli("data", "prepare", tmp_path, *column, "--no-overlap", "--json")
    assert "warning" not in without.err
    assert [row["overlap_with_train"] for row in without.json["splits"]] == [None] * 3
    shown = cli("data", "show", tmp_path, "--split", "test", *column[:2], "--json").json
    assert shown["documents"][0] == texts[30]
    wrong = cli("data", "prepare", tmp_path, "--set", "train.steps=3")
    assert wrong.code == 2
    assert "only reads keys of the data section" in wrong.err


def test_ctrl_c_in_training_saves_and_exits_130(tmp_path: Path, quick) -> None:
    settings = [f for item in (*quick, "train.steps=100000") for f in ("--set", item)]
    command = [sys.executable, "-m", "bd3cli", "train", "--out", str(tmp_path / "run"), *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "a checkpoint is saved, --resume --out" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="POSIX permissions")
def test_a_directory_that_cannot_be_written_is_an_input_error(cli, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    (tmp_path / "file").write_text("")
    file = cli("train", "--out", tmp_path / "file" / "run")  # imports what nobody may not be able to read
    was = os.geteuid()
    if was == 0:  # root may write anywhere: be nobody for a moment
        made = Path(tempfile.gettempdir()).resolve()
        for folder in (tmp_path, *(parent for parent in tmp_path.parents if made in parent.parents)):
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        closed = cli("train", "--out", tmp_path / "closed" / "run")
    finally:
        os.seteuid(was)
    assert (closed.code, file.code) == (2, 2), closed.err
    assert "closed is not writable. Choose another --out." in closed.err
    assert "file is a file. Choose another --out." in file.err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", "run.json cannot be read"),
        ("recipe.toml", "[train]\nstep = 1\n", "recipe.toml: There is no setting 'train.step'"),
        ("recipe.toml", None, "recipe.toml cannot be read"),
        ("checkpoints/best.json", "x", None),
    ],
)
def test_a_damaged_run_is_refused_by_file(cli, trained: Path, tmp_path: Path, file, content, message) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    outcome = cli("eval", run, "--sequences", 4)
    if message is None:  # which checkpoint is best is not known: the last one serves
        assert outcome.code == 0
    else:
        assert outcome.code == 2
        assert message in outcome.err


def test_a_checkpoint_of_another_network_is_refused(cli, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace("blocks = 2", "blocks = 3"))
    outcome = cli("eval", run)
    assert outcome.code == 2
    assert "missing: blocks.2.adaLN_modulation.bias" in outcome.err


def test_version() -> None:
    assert re.fullmatch(r"bd3cli \d+\.\d+\.\d+\n", python("from bd3cli.cli.main import main; main(['--version'])"))
