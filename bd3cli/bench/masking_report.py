"""The report of a comparison of maskings: means, intervals and paired differences over seeds.

Curves are validation bits per byte against optimizer steps, or against masked tokens: one way to draw masks
may look faster than another merely because it masks more tokens in a step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bd3cli.bench.maskings import TEST, Comparison, Entry, entries, read_comparison
from bd3cli.evaluation.intervals import mean_of
from bd3cli.runs.directory import METRICS, RunDirectory

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # [V] steps, masked tokens and bits per byte of each validation


def report(out: Path) -> dict[str, Any]:
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


def _block_rows(comparison: Comparison, size: int, done: list[Entry]) -> list[dict[str, Any]]:
    """One row for every scheme at a block size that has finished runs."""
    names = [scheme.name for scheme in comparison.arms(size)]
    runs = {name: {e.seed: e for e in done if (e.block_size, e.scheme.name) == (size, name)} for name in names}
    curves = {name: {seed: curve(e.folder) for seed, e in found.items()} for name, found in runs.items()}
    base = curves[names[0]]
    rows = []
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
                "test": interval([tests[s]["bits_per_byte"] for s in sorted(tests)]),
                "test_ppl": interval([tests[s]["ppl"] for s in sorted(tests)]),
                "test_minus_baseline": interval(
                    [tests[s]["bits_per_byte"] - base_tests[s]["bits_per_byte"] for s in seeds]
                ),
                "steps_to_baseline": reached,
                "masked_tokens": float(np.mean([c[1][-1] for c in mine.values()])),
                "equal_masked": interval([a for a, _ in equal.values()]),
                "equal_masked_minus_baseline": interval([a - b for a, b in equal.values()]),
                "learned": {s: _learned(e.folder) for s, e in sorted(found.items()) if _learned(e.folder)},
            }
        )
    return rows


def curve(run: Path) -> Curve:
    """The validations of a run."""
    rows = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "validation" in row]
    return (
        np.array([row["step"] for row in rows], dtype=float),
        np.array([row["masked_tokens"] for row in rows], dtype=float),
        np.array([row["validation"]["bits_per_byte"] for row in rows], dtype=float),
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


def interval(values: list[float]) -> dict[str, Any] | None:
    """Mean with its 95% Student-t interval over seeds, which takes at least two; None without values."""
    if not values:
        return None
    if len(values) < 2:
        return {"mean": values[0], "ci95": None, "effective_n": 1, "values": values}
    mean = mean_of(values)
    return {"mean": mean.value, "ci95": list(mean.ci95), "effective_n": mean.effective, "values": values}


def markdown(document: dict[str, Any]) -> str:
    """The report as a table."""
    head = list(table_rows(document))
    lines = [head[0], ["---"] * len(head[0]), *head[1:]]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n\n" + caption(document) + "\n"


def table_rows(document: dict[str, Any]) -> list[list[str]]:
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


def caption(document: dict[str, Any]) -> str:
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


def _text(value: dict[str, Any] | None, sign: bool = False) -> str:
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


def _read_test(entry: Entry) -> dict[str, Any]:
    test: dict[str, Any] = json.loads((entry.folder / TEST).read_text(encoding="utf-8"))
    return test


def _learned(folder: Path) -> dict[str, Any] | None:
    learned: dict[str, Any] | None = RunDirectory(folder).read_record().get("progress", {}).get("masking")
    return learned
