"""Output on streams as they come: other encodings, closed ends, readers that leave, full disks, plain terminals."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bd3cli.cli.streams import Outlet, reader_has_left, reliable_streams, undelivered

BD3CLI = f"{shlex.quote(sys.executable)} -m bd3cli"
TEXT = "漢字 café █ ² ± ─ 😀"


def shell(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command line as bash runs it, BD3CLI standing for the command."""
    environment = {**os.environ, "BD3CLI": BD3CLI, **variables}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=environment, check=False)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "t.txt"
    path.write_text("\n".join(f"line {i}: {TEXT} and words" for i in range(400)), encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "utf-16", "shift_jis", "ascii:replace"])
def test_what_an_encoding_lacks_is_replaced(text: Path, encoding: str) -> None:
    found = shell(f"$BD3CLI data show {text} --width 2000", PYTHONIOENCODING=encoding)
    assert found.returncode == 0, found.stderr
    codec, _, errors = encoding.partition(":")
    shown = found.stdout.decode(codec)
    drawn = {"█": "#", "²": "^2", "±": "+/-", "─": "-"}
    for character in TEXT:
        try:
            expected = character.encode(codec).decode(codec)
        except UnicodeEncodeError:
            escape = character.encode("ascii", "backslashreplace").decode()
            expected = "?" if errors else drawn.get(character, escape)
        assert expected in shown


def test_the_c_locale_is_no_hindrance(text: Path) -> None:
    found = shell(f"$BD3CLI data show {text}", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert found.returncode == 0, found.stderr
    assert b"caf\\xe9" in found.stdout


def test_json_is_ascii_and_the_same_under_every_encoding(text: Path) -> None:
    found = {shell(f"$BD3CLI data show {text} --json", PYTHONIOENCODING=e).stdout for e in ("utf-8", "ascii", "cp1252")}
    assert len(found) == 1
    assert TEXT in json.loads(found.pop().decode("ascii"))["documents"][0]


def test_a_run_on_such_a_terminal_finishes(text: Path, tmp_path: Path, quick) -> None:
    """It was recorded as finished and exited with 1: its sample could not be printed."""
    settings = " ".join(f"--set {item}" for item in (*quick, "train.steps=2"))
    run = tmp_path / "run"
    found = shell(f"$BD3CLI train --data {text} {settings} --out {run}", PYTHONIOENCODING="latin-1")
    assert found.returncode == 0, found.stderr
    assert b"perplexity" in found.stdout
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    gone = shell(f"$BD3CLI train --data {text} {settings} --out {run}2 2>&1 >&- | head -c 1; echo ${{PIPESTATUS[0]}}")
    assert gone.stdout.endswith(b"0\n"), gone.stdout
    assert json.loads((tmp_path / "run2" / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "| head -c 3", "| true"])
def test_closed_streams_are_no_failure(closed: str) -> None:
    found = shell(f"$BD3CLI schedules list {closed}; exit ${{PIPESTATUS[0]}}")
    assert found.returncode == 0, found.stderr
    assert b"Error" not in found.stderr
    assert bool(found.stdout) == (closed in ("2>&-", "2>/dev/full", "| head -c 3"))


def test_sampling_asks_whether_stderr_is_a_terminal_even_when_it_is_closed(trained: Path) -> None:
    found = shell(f"$BD3CLI sample {trained} --length 16 2>&-")
    assert found.returncode == 0
    assert found.stdout


def test_output_that_is_lost_to_a_full_disk_is_a_failure() -> None:
    found = shell("$BD3CLI schedules list > /dev/full")
    assert found.returncode == 1
    assert found.stderr.decode() == (
        "bd3cli: error: the output could not be written: No space left on device. "
        "Files the command writes are complete.\n"
    )


def test_sampling_ends_when_nobody_reads_on(trained: Path) -> None:
    """A hundred thousand samples would take hours."""
    found = shell(f"$BD3CLI sample {trained} --num 100000 | head -1; exit ${{PIPESTATUS[0]}}")
    assert found.returncode == 0
    assert found.stdout == b"--- sample 1 of 100000, seed 0 ---\n"
    assert b"interrupted" not in found.stderr


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Messages would be written into it: descriptor 2 is the lowest free one when stderr is closed."""
    found = shell(
        f"{shlex.quote(sys.executable)} -c 'from bd3cli.cli.streams import reliable_streams as r\n"
        f'with r(): print(open("{tmp_path / "file"}", "w").fileno() > 2)\' 2>&-'
    )
    assert found.stdout == b"True\n"


def test_an_outlet_waits_for_a_slow_reader_of_a_pipe_that_does_not_block() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    received = bytearray()

    def read() -> None:
        time.sleep(0.05)
        while part := os.read(reading, 4096):
            received.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    outlet, data = Outlet(writing), os.urandom(1 << 20)  # more than a pipe holds
    assert outlet.write(data) == len(data)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert bytes(received) == data
    assert outlet.failure is None


def test_streams_are_as_before_afterwards_and_tell_why_they_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for broken, left in ((writing, True), ("/dev/full", False)):
        with open(broken, "w", encoding="ascii") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            with reliable_streams():
                assert sys.stdout is not stream
                print("漢")
                found = undelivered()
                assert reader_has_left() == left
                print("goes nowhere")
            assert sys.stdout is stream
            assert found is None if left else found is not None and found.errno == errno.ENOSPC


def terminal(command: str, **variables: str) -> tuple[int, str]:
    """A command line in a terminal of its own; its exit code and all it showed."""
    import pty

    main, secondary = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "bd3cli", *shlex.split(command)],
        stdin=secondary, stdout=secondary, stderr=secondary, env=environment,
    )  # fmt: skip
    os.close(secondary)
    shown = bytearray()
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        shown.extend(part)
    os.close(main)
    return process.wait(), shown.decode("utf-8", "replace")


def test_a_terminal_without_cursor_gets_plain_lines(trained: Path) -> None:
    code, shown = terminal(f"sample {trained} --num 2", TERM="dumb")
    assert code == 0, shown
    assert "\x1b" not in shown
    assert "sample 1 of 2" in shown


def test_no_colour_where_none_is_wanted() -> None:
    code, shown = terminal("schedules plot cosine", TERM="xterm-256color", NO_COLOR="1")
    assert code == 0
    assert "\x1b[3" not in shown
    assert "\x1b[3" in terminal("schedules plot cosine", TERM="xterm-256color")[1]
