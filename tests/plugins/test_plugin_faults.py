"""What goes wrong in a plugin's code is told as the plugin's: which one, what of it, file and line; never as ours."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bd3cli.faults import PluginError, blamed, blaming_plugins
from bd3cli.maskings import get_masking
from bd3cli.plugins import load_plugins
from bd3cli.schedules import get_schedule
from bd3cli.weights import get_weight

HEADER = """
import os, signal, warnings
from dataclasses import dataclass, replace
import torch
from bd3cli import hookimpl
from bd3cli.schedules import NoiseSchedule
from bd3cli.weights import LossWeight
from bd3cli.maskings import MaskDraw, Masking, get_masking
class Slope(torch.autograd.Function):
    @staticmethod
    def forward(x): return x.clone()
    @staticmethod
    def setup_context(ctx, inputs, output): pass
    @staticmethod
    def jvp(ctx, g): raise LookupError('no slope')
def helper(x): return x[9]
def draw(context, noise, mask=None, **changes):
    good = get_masking('count').draw(noise, context)
    return MaskDraw(good.mask if mask is None else mask, replace(good.noise, **changes))
def C(): return get_masking('count')
class Learner:
    refresh = 2
    seen = 0
    def observe(self, seen): self.seen += 1
    def masking(self): return get_masking('count')
    def summary(self): return {'seen': self.seen}
    def state_dict(self): return {'seen': self.seen}
    def load_state_dict(self, state): self.seen = state['seen']
"""
P = "    def mask_prob(self, t): return "
BASES = {"schedule": "NoiseSchedule", "weight": "LossWeight", "masking": "Masking"}
HOOK = "@hookimpl\ndef register_{}(register): register('bad', X)\n"
HOOKS = {"schedule": "noise_schedules", "weight": "loss_weights", "masking": "maskings"}
SMALL = ("train.steps=12", "train.batch_size=4", "train.validate_sequences=8", "train.validate_every=12",
         "model.hidden_size=32", "model.heads=2", "model.blocks=1", "model.cond_dim=8", "model.length=32",
         "train.check_laws=false", "train.log_every=4")  # fmt: skip
SETS = [part for value in SMALL for part in ("--set", value)]
D = "    def draw(self, noise, context): return "
W = "    def weight(self, alpha, slope): return "
MINE = "class Mine(Learner):\n    "
OK_DRAW = D + "draw(context, noise)\n"
LEARNS = OK_DRAW + "    def learner(self, block_size): return Mine()\n"


def source(kind: str, body: str, before: str = "") -> str:
    """A plugin's module: a class with this body, registered as ``bad``."""
    kinds = f"@dataclass(frozen=True)\nclass X({BASES[kind]}):\n{body}\n"
    return f"{HEADER}{before}\n{kinds}{HOOK.format(HOOKS[kind])}"


def line_of(text: str, mark: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if mark in line)


RAISES = [  # kind, body, before it, what marks the line, what is told
    ("schedule", P + "t / 0 if 1 / 0 else t", "", "1 / 0", "ZeroDivisionError: division by zero"),
    ("schedule", P + "helper([t])", "", "x[9]", "IndexError: list index out of range"),
    ("schedule", P + "Slope.apply(t)", "", "no slope", "LookupError: no slope"),
    ("schedule", P + "torch.ones(3) @ t", "", "@ t", "RuntimeError: "),
    ("schedule", P + "exit(0)", "", "exit(0)", "SystemExit: 0"),
    ("schedule", "    def mask_prob(self, t): raise KeyboardInterrupt", "", "raise Key", "KeyboardInterrupt"),
    ("schedule", P + "t\n    def at_progress(self, f): return self if f < 0.5 else [][1]", "", "[][1]", "IndexError"),
    ("schedule", P + "t\n    def weight(self, t): return self.nothing", "", "self.nothing", "AttributeError"),
    ("schedule", P + "t\n    @property\n    def floor(self): return {}['a']", "", "['a']", "KeyError: 'a'"),
    ("schedule", P + "t\n    def __post_init__(self): [] + 1", "", "[] + 1", "TypeError: can only"),
    ("schedule", P + "t\n    def __post_init__(self): raise EOFError", "", "EOFError", "EOFError"),
    ("schedule", P + "t\n    def __post_init__(self): raise BrokenPipeError(32)", "", "Error(32)", "BrokenPipeError"),
    ("schedule", P + "warnings.warn('odd') or t", "warnings.simplefilter('error')", "odd", "UserWarning: odd"),
    ("weight", W + "alpha[None][5]", "", "[5]", "IndexError"),
    ("weight", W + "alpha\n    def scaled(self, noise): open('/no/where')", "",
     "/no/where", "FileNotFoundError: [Errno 2]"),
    ("masking", "    def draw(self, noise, context): assert context.block_size == 3", "", "assert", "AssertionError"),
    ("masking", OK_DRAW + "    def learner(self, block_size): return None.x", "", "None.x", "AttributeError"),
    ("masking", LEARNS, MINE + "def observe(self, seen): seen.gone", "seen.gone", "AttributeError"),
    ("masking", LEARNS, MINE + "def masking(self): return [C()][self.seen // 2]", "[C()]", "IndexError"),
    ("masking", LEARNS, MINE + "def summary(self): raise SystemExit('bye')", "bye", "SystemExit: bye"),
    ("masking", LEARNS, MINE + "def state_dict(self): raise StopIteration(7)", "(7)",
     "StopIteration: 7"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "before", "mark", "told"), RAISES)
def test_an_exception_in_training_is_the_plugins(
    install, cli, tmp_path: Path, kind: str, body: str, before: str, mark: str, told: str
) -> None:
    text = source(kind, body, before)
    install("bd3cli-fake", "fake_faults", text)
    masking = () if kind == "masking" else ("--masking", "bernoulli")
    failed = cli("train", "--out", tmp_path / "run", f"--{kind}", "bad", *masking, *SETS)
    last = failed.err.strip().splitlines()[-1]
    assert failed.code == 2
    assert f"of bd3cli-fake 1.2 raised {told}" in last
    assert f"({tmp_path / 'fake_faults.py'}, line {line_of(text, mark)}, in " in last
    assert failed.err.count("bd3cli: error:") == 1
    assert "defect" not in failed.err
    assert "Traceback" not in failed.err


@pytest.mark.parametrize(
    ("kind", "body", "before", "told"),
    [
        ("schedule", P + "0.5", "", "mask_prob returned a float; it must return a tensor like its input"),
        ("schedule", P + "None", "", "mask_prob returned nothing; it must"),
        ("schedule", P + "t.numpy()", "", "mask_prob returned a ndarray; it must"),
        ("schedule", P + "t.sum()", "", "mask_prob returned float64[]; it must return a floating-point tensor like"),
        ("schedule", P + "t > 0.5", "", "mask_prob returned bool[1000]; it must"),
        ("schedule", P + "(t, t)", "", "mask_prob returned a tuple; it must"),
        ("schedule", P + "t\n    def rate(self, t): return 1.0", "", "rate returned a float"),
        ("schedule", P + "t\n    def weight(self, t): return t[:1]", "", "weight returned float64[1]; it must"),
        ("schedule", P + "t\n    def at_progress(self, f): return f", "", "at_progress returned a float; it must"),
        ("schedule", P + "t\n    t_min = '0'", "", "t_min of X of bd3cli-fake 1.2 is '0'; it must be a number."),
        ("schedule", P + "t\n    sweeps = 1.5", "", "sweeps of X of bd3cli-fake 1.2 is 1.5; it must be int."),
        ("schedule", P + "t\n    k: 'Gone' = 1", "", "unreadable types: NameError: name 'Gone' is"),
        ("weight", W + "1", "", "weight returned an int; it must"),
        ("weight", W + "alpha\n    def scaled(self, noise): return noise.weight.sum()", "",
         "scaled returned float64[]"),
        ("masking", D + "None", "", "draw returned nothing; it must return a Mask"),
        ("masking", D + "draw(context, noise, weight=1.0)", "",
         "draw returned a float as weight"),
        ("masking", D + "MaskDraw(context.maskable, noise.time)", "",
         "draw returned a Tensor as noise; it must be a Noise"),
        ("masking", D + "draw(context, noise, rate=noise.position)", "",
         "draw returned rate of shape [4, 32], not [4, 8]"),
        ("masking", D + "draw(context, noise, mask=noise.position)", "",
         "draw returned mask as float64, not bool"),
        ("masking", OK_DRAW + "    def learner(self, block_size): return 3", "", "returned an int without 'refresh'"),
        ("masking", LEARNS, MINE + "refresh = 1", "whose refresh is 1; it must be a whole number"),
        ("masking", LEARNS, MINE + "def masking(self): return 'count'", "it must return a Masking"),
        ("masking", LEARNS, MINE + "def summary(self): return {'a': {1}}", "what JSON cannot hold"),
        ("masking", LEARNS, MINE + "def state_dict(self): return {1}", "what a checkpoint cannot hold"),
    ],
)  # fmt: skip
def test_a_wrong_answer_in_training_is_the_plugins(
    install, cli, tmp_path: Path, kind: str, body: str, before: str, told: str
) -> None:
    install("bd3cli-fake", "fake_faults", source(kind, body, before))
    masking = () if kind == "masking" else ("--masking", "bernoulli")
    failed = cli("train", "--out", tmp_path / "run", f"--{kind}", "bad", *masking, *SETS)
    last = failed.err.strip().splitlines()[-1]
    assert failed.code == 2, failed.err
    assert told in last
    assert "bd3cli-fake 1.2" in last
    assert failed.err.count("bd3cli: error:") == 1
    assert "defect" not in failed.err
    assert "Traceback" not in failed.err


@pytest.mark.parametrize(
    "command", [("schedules", "show"), ("schedules", "plot"), ("weights", "plot", "none", "--schedule")]
)
@pytest.mark.parametrize("body", ["0.5", "1 / 0", "exit(3)", "t.sum()", "t.gone"])
def test_the_commands_that_look_at_schedules_tell_the_same(install, cli, command: tuple[str, ...], body: str) -> None:
    install("bd3cli-fake", "fake_faults", source("schedule", P + body))
    failed = cli(*command, "bad")
    assert failed.code == 2
    assert re.search(r"error: noise schedule 'bad' of bd3cli-fake 1\.2 .*fake_faults\.py, line \d+", failed.err)
    assert "defect" not in failed.err


def test_check_reports_it_as_a_law_that_fails(install, cli) -> None:
    install("bd3cli-fake", "fake_faults", source("schedule", P + "exit(3)"))
    checked = cli("schedules", "check", "bad", "--json")
    assert checked.code == 1
    details = {row["law"]: row["detail"] for row in checked.json["laws"]}
    assert "'bad' of bd3cli-fake 1.2 raised SystemExit: 3" in details["range"]


def test_debug_shows_the_plugins_frame(install, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BD3CLI_DEBUG", "0")
    install("bd3cli-fake", "fake_faults", source("schedule", P + "1 / 0"))
    failed = cli("--debug", "schedules", "show", "bad")
    assert "Traceback" in failed.err
    assert "def mask_prob(self, t): return 1 / 0" in failed.err


def test_a_hook_that_fails_is_told_with_file_and_line(install, tmp_path: Path) -> None:
    text = "from bd3cli import hookimpl\n@hookimpl\ndef register_maskings(register):\n    int('x')\n"
    install("bd3cli-fake", "fake_faults", text)
    (record,) = load_plugins().errors()
    assert record.error == (
        "register_maskings raised ValueError: invalid literal for int() with base 10: 'x' "
        f"({tmp_path / 'fake_faults.py'}, line 4, in register_maskings)."
    )


def test_a_value_the_class_refuses_is_the_users_and_says_where(install) -> None:
    body = (
        P + "t\n    k: int = 1\n    def __post_init__(self):\n        if self.k > 3: raise ValueError('k is too big')"
    )
    install("bd3cli-fake", "fake_faults", source("schedule", body))
    get_schedule("bad:k=3")
    with pytest.raises(ValueError, match=r"noise schedule 'bad': k is too big \(.*fake_faults\.py, line \d+, in X\."):
        get_schedule("bad:k=4")
    with pytest.raises(ValueError, match=r"^noise schedule 'cosine': eps must lie between 0 and 0\.9, not be 2\.0\.$"):
        get_schedule("cosine:eps=2")


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        ("schedule", "    def mask_prob(self): return 0.5",
         "mask_prob of X of bd3cli-fake 1.2 takes (); it must take (t)"),
        ("schedule", P + "t\n    def rate(self, t, dt): return t",
         "rate of X of bd3cli-fake 1.2 takes (t, dt); it must take (t)"),
        ("schedule", P + "t\n    def at_progress(self): return self", "takes (); it must take (fraction)"),
        ("weight", "    def weight(self, alpha): return alpha", "takes (alpha); it must take (alpha, dalpha_dt)"),
        ("weight", W + "alpha\n    def scaled(self, w, alpha, slope): return w",
         "scaled of X of bd3cli-fake 1.2 takes (w, alpha, slope); it must take (noise)"),
        ("masking", "    def draw(self, noise): return noise", "takes (noise); it must take (noise, context)"),
        ("schedule", P + "t\n    def noise(self, t): return t", "noise of X of bd3cli-fake 1.2 is made of the other"),
        ("schedule", P + "t\n    noise: float = 1.0", "noise of X of bd3cli-fake 1.2 is 1.0; it must stay a method:"),
        ("schedule", P + "t\n    rate: float = 1.0", "rate of X of bd3cli-fake 1.2 is 1.0; it must stay a method:"),
        ("weight", W + "alpha\n    scaled: bool = True", "scaled of X of bd3cli-fake 1.2 is True; it must stay"),
        ("masking", D + "None\n    learner: int = 3", "learner of X of bd3cli-fake 1.2 is 3; it must stay a method:"),
    ],
)  # fmt: skip
def test_a_method_of_another_form_is_refused_before_it_is_called(install, cli, kind: str, body: str, told: str) -> None:
    install("bd3cli-fake", "fake_faults", source(kind, body))
    failed = cli(f"{kind}s", "check", "bad")
    assert failed.code == 2
    assert told in failed.err
    assert "defect" not in failed.err


@pytest.mark.parametrize("more", ["t, scale=2.0", "t, *rest", "*times", "t, **options"])
def test_parameters_that_nobody_need_give_are_welcome(install, more: str) -> None:
    import torch

    name = more.split(",")[0].strip("*")
    value = "times[0]" if name == "times" else "t"
    install("bd3cli-fake", "fake_faults", source("schedule", f"    def mask_prob(self, {more}): return {value} * 1"))
    half = torch.full((2,), 0.5)
    assert torch.equal(get_schedule("bad").noise(half).mask_prob, half)


def test_threads_keep_the_blame(install) -> None:
    install("bd3cli-fake", "fake_faults", source("masking", D + "noise.gone"))
    masking = get_masking("bad")
    told = pytest.raises(PluginError, match="masking 'bad' of bd3cli-fake 1")
    with ThreadPoolExecutor(1) as pool, told, blaming_plugins():
        pool.submit(masking.draw, threading.current_thread(), None).result()  # type: ignore[arg-type]


def test_the_plugin_whose_code_failed_is_blamed_not_the_one_that_called_it(install) -> None:
    install("bd3cli-one", "fake_one", source("schedule", P + "1 / 0"))
    body = "    def weight(self, alpha, slope):\n        from bd3cli.schedules import get_schedule\n"
    install("bd3cli-two", "fake_two", source("weight", body + "        return get_schedule('bad').mask_prob(alpha)"))
    import torch

    with pytest.raises(PluginError, match=r"noise schedule 'bad' of bd3cli-one 1\.2"), blaming_plugins():
        get_weight("bad").weight(torch.ones(1), torch.ones(1))


def test_what_plugins_have_no_part_in_is_blamed_on_nobody(install) -> None:
    install("bd3cli-fake", "fake_faults", source("schedule", P + "t"))
    load_plugins()
    for error in (ZeroDivisionError(), SystemExit(0), KeyboardInterrupt(), MemoryError(), ValueError("x")):
        with pytest.raises(type(error)) as caught, blaming_plugins():
            raise error
        assert blamed(caught.value) is None


def test_ctrl_c_while_a_plugin_works_is_an_interruption(install) -> None:
    body = "    def mask_prob(self, t):\n        os.kill(os.getpid(), signal.SIGINT)\n        return t"
    install("bd3cli-fake", "fake_faults", source("schedule", body))
    with pytest.raises(KeyboardInterrupt), blaming_plugins():
        get_schedule("bad").mask_prob(None)  # type: ignore[arg-type]


def test_want_of_memory_in_a_plugin_is_not_its_fault(install) -> None:
    install("bd3cli-fake", "fake_faults", source("schedule", "    def mask_prob(self, t): raise MemoryError"))
    with pytest.raises(MemoryError), blaming_plugins():
        get_schedule("bad").mask_prob(None)  # type: ignore[arg-type]


def test_namespace_packages_are_not_one_plugin(tmp_path: Path, install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two distributions under the namespace `fakespace`."""
    space = tmp_path / "fakespace"
    for name in ("one", "two"):
        (space / name).mkdir(parents=True)
        text = source("schedule", P + "t.gone").replace("'bad'", f"'bad-{name}'")
        (space / name / "__init__.py").write_text(text)
        info = tmp_path / f"fake_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: fake-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bd3cli]\nmain = fakespace.{name}\n")
    for name in ("one", "two"):
        told = pytest.raises(PluginError, match=rf"'bad-{name}' of fake-{name} 1\.0 raised AttributeError")
        with told, blaming_plugins():
            get_schedule(f"bad-{name}").mask_prob(None)  # type: ignore[arg-type]


def test_wrong_answers_are_told_under_compile_as_anywhere(install) -> None:
    """Looking at results must not break torch.compile's single graph."""
    import torch

    install("bd3cli-fake", "fake_faults", source("schedule", P + "t * t"))
    schedule = get_schedule("bad")
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    compiled = torch.compile(schedule.mask_prob, backend="eager", fullgraph=True)
    assert torch.equal(compiled(t), t * t)
    assert torch.allclose(schedule.rate(t), 2 * t)


def test_slots_and_inheritance_keep_the_watch(install) -> None:
    import torch

    text = source("schedule", P + "t").replace("(frozen=True)", "(frozen=True, slots=True)")
    below = "@dataclass(frozen=True)\nclass Y(X):\n    def mask_prob(self, t): return super().mask_prob(t).sum()\n"
    text = text.replace("@hookimpl", below + "@hookimpl").replace("register('bad', X)", "register('bad', Y)")
    install("bd3cli-fake", "fake_faults", text)
    with pytest.raises(PluginError, match=r"noise schedule 'bad' of bd3cli-fake 1\.2 is broken: mask_prob returned"):
        get_schedule("bad").mask_prob(torch.ones(2))
