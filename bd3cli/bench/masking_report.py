"""The report of a comparison of maskings: means, intervals and paired differences over seeds.

Curves are validation bits per byte against optimizer steps, or against masked tokens: one way to draw masks
may look faster than another merely because it masks more tokens in a step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np

from bd3cli.bench.maskings import TEST, Comparison, ComparisonFile, Entry, entries, read_comparison
from bd3cli.errors import InputError
from bd3cli.evaluation.intervals import mean_of
from bd3cli.evaluation.likelihood import LikelihoodSummary
from bd3cli.records import read_json
from bd3cli.runs.directory import METRICS, RunDirectory
from bd3cli.runs.records import ValidationRow

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # [V] steps, masked tokens and bits per byte of each validation


class Interval(TypedDict):
    """A mean over seeds with its 95% Student-t interval, which takes at least two of them."""

    mean: float
    ci95: list[float] | None
    effective_n: float
    values: list[float]


class ArmRow(TypedDict):
    """One way to draw masks at one block size; differences and `steps_to_baseline` are by seed."""

    block_size: int
    arm: str
    clip: tuple[float, float] | None
    seeds: list[int]
    validation: Interval | None
    validation_minus_baseline: Interval | None
    test: Interval | None
    test_ppl: Interval | None
    test_minus_baseline: Interval | None
    steps_to_baseline: list[float | None]
    masked_tokens: float
    equal_masked: Interval | None
    equal_masked_minus_baseline: Interval | None
    learned: dict[int, object]


class Report(ComparisonFile):
    """What a comparison shows so far: `runs` of the `of` runs are finished."""

    runs: int
    of: int
    baseline: str
    rows: list[ArmRow]


def report(out: Path) -> Report:
    """Everything known about the finished runs in `out`.

    Raises:
        InputError: `out` holds no comparison.
    """
    comparison, document = read_comparison(out)
    done = [entry for entry in entries(out, comparison) if (entry.folder / TEST).is_file()]
    rows = [row for size in comparison.block_sizes for row in _block_rows(comparison, size, done)]
    return {
        "runs": len(done),
        "of": len(entries(out, comparison)),
        "baseline": comparison.arms(comparison.block_sizes[0])[0].name,
        "rows": rows,
        **document,
    }


def _block_rows(comparison: Comparison, size: int, done: list[Entry]) -> list[ArmRow]:
    """One row for every scheme at a block size that has finished runs."""
    names = [scheme.name for scheme in comparison.arms(size)]
    runs = {name: {e.seed: e for e in done if (e.block_size, e.scheme.name) == (size, name)} for name in names}
    curves = {name: {seed: curve(e.folder) for seed, e in found.items()} for name, found in runs.items()}
    base = curves[names[0]]
    rows: list[ArmRow] = []
    for name in names:
        mine, found = curves[name], runs[name]
        if not found:
            continue
        seeds = sorted(set(mine) & set(base))
        tests = {seed: _read_test(e) for seed, e in found.items()}
        base_tests = {seed: _read_test(runs[names[0]][seed]) for seed in seeds}
        equal = {s: [_at_masked(c[s], _common_masked(curves, s)) for c in (mine, base)] for s in seeds}
        reached = [steps_to(mine[s], float(base[s][2][-1])) for s in seeds]
        rows.append(
            {
                "block_size": size,
                "arm": name,
                "clip": next(iter(found.values())).scheme.clip,
                "seeds": sorted(found),
                "validation": interval([float(mine[s][2][-1]) for s in sorted(mine)]),
                "validation_minus_baseline": interval([float(mine[s][2][-1] - base[s][2][-1]) for s in seeds]),
                "test": interval([_bits(tests[s]) for s in sorted(tests)]),
                "test_ppl": interval([tests[s]["ppl"] for s in sorted(tests)]),
                "test_minus_baseline": interval([_bits(tests[s]) - _bits(base_tests[s]) for s in seeds]),
                "steps_to_baseline": reached,
                "masked_tokens": float(np.mean([c[1][-1] for c in mine.values()])),
                "equal_masked": interval([a for a, _ in equal.values()]),
                "equal_masked_minus_baseline": interval([a - b for a, b in equal.values()]),
                "learned": {s: _learned(e.folder) for s, e in sorted(found.items()) if _learned(e.folder)},
            }
        )
    return rows


def curve(run: Path) -> Curve:
    """The validations of a run.

    Raises:
        InputError: it has none.
    """
    rows = [row for row in RunDirectory(run).metrics() if isinstance(row, ValidationRow)]
    if not rows:
        raise InputError(f"{run / METRICS} holds no validation. Remove {run}; it will be trained again.")
    return (
        np.array([row.step for row in rows], dtype=float),
        np.array([row.masked_tokens for row in rows], dtype=float),
        np.array([_bits(row.validation) for row in rows], dtype=float),
    )


def steps_to(found: Curve, target: float) -> float | None:
    """The step at which a curve first comes down to `target`, linear between validations; None if it never does."""
    steps, _, bits = found
    below = np.nonzero(bits <= target)[0]
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(steps[0])
    share = (bits[i - 1] - target) / (bits[i - 1] - bits[i])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def interval(values: list[float]) -> Interval | None:
    """Mean with its 95% Student-t interval over seeds, which takes at least two; None without values."""
    if not values:
        return None
    if len(values) < 2:
        return {"mean": values[0], "ci95": None, "effective_n": 1, "values": values}
    mean = mean_of(values)
    return {"mean": mean.value, "ci95": list(mean.ci95), "effective_n": mean.effective, "values": values}


def markdown(document: Report) -> str:
    """The report as a table."""
    head = list(table_rows(document))
    lines = [head[0], ["---"] * len(head[0]), *head[1:]]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n\n" + caption(document) + "\n"


def table_rows(document: Report) -> list[list[str]]:
    """Header and rows, as text."""
    base = document["baseline"]
    rows = [
        ["L'", "masks", "seeds", "test bits/byte", f"test - {base}", "test ppl", f"validation - {base}",
         f"steps to {base}'s end", "masked tokens", f"at equal masked tokens - {base}"]
    ]  # fmt: skip
    for row in document["rows"]:
        clip = "" if row["clip"] is None else " [{:g}, {:g}]".format(*row["clip"])
        rows.append(
            [str(row["block_size"]), row["arm"] + clip * ("paper" in row["arm"]), str(len(row["seeds"])),
             _text(row["test"]), _text(row["test_minus_baseline"], sign=True), _text(row["test_ppl"]),
             _text(row["validation_minus_baseline"], sign=True), _steps_text(row["steps_to_baseline"]),
             f"{row['masked_tokens']:,.0f}", _text(row["equal_masked_minus_baseline"], sign=True)]
        )  # fmt: skip
    return rows


def caption(document: Report) -> str:
    """What the numbers are, and the size of the runs."""
    r, c = document["recipe"], document["comparison"]
    return (
        f"{document['runs']} of {document['of']} runs done: {r['model.blocks']} layers x {r['model.hidden_size']}, "
        f"L={r['model.length']}, {r['train.steps']} steps of {r['train.batch_size']} sequences, learning rate "
        f"{r['train.learning_rate']:g}, EMA {r['train.ema']:g}, tokenizer {r['data.tokenizer']}; test: count, "
        f"{c['test_sequences']} sequences, {c['test_draws']} draw(s), last weights. Means over seeds; in brackets 95% "
        f"Student-t intervals over seeds; differences by seed to {document['baseline']} (negative is better). "
        f"{document['environment']['processor']}, {document['environment']['threads']} thread(s), "
        f"torch {document['environment']['torch']}."
    )


def _text(value: Interval | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    form = "{:+.3f}" if sign else "{:.3f}"
    mean = form.format(value["mean"])
    if value["ci95"] is None:
        return mean
    low, high = (form.format(x) for x in value["ci95"])
    return f"{mean} ({low} to {high})"


def _steps_text(reached: list[float | None]) -> str:
    known = [x for x in reached if x is not None]
    if not reached or not known:
        return "not reached" if reached else "-"
    missed = f" (not reached by {len(reached) - len(known)} of {len(reached)})" if len(known) < len(reached) else ""
    return f"{np.mean(known):.0f}{missed}"


def _common_masked(curves: dict[str, dict[int, Curve]], seed: int) -> float:
    """The number of masked tokens that every scheme's run of this seed has reached."""
    return min(float(found[seed][1][-1]) for found in curves.values() if seed in found)


def _at_masked(found: Curve, masked: float) -> float:
    return float(np.interp(masked, found[1], found[2]))


def _read_test(entry: Entry) -> LikelihoodSummary:
    return read_json(LikelihoodSummary, entry.folder / TEST)


def _bits(found: LikelihoodSummary) -> float:
    """Bits per byte, in which everything here is compared."""
    bits = found.get("bits_per_byte")
    if bits is None:
        raise InputError("Maskings are compared in bits per byte, and the tokens of these runs spell no bytes.")
    return bits


def _learned(folder: Path) -> object:
    """What a masking that learns says it has learned."""
    progress = RunDirectory(folder).read_record().progress
    return None if progress is None else progress.masking
