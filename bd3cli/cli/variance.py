"""The variances that `bd3cli eval` shows: of the run's own training masks, and of others asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bd3cli.cli.common import notice, print_notes
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.data import PackedSplit
    from bd3cli.evaluation import Likelihood
    from bd3cli.runs import Run

VarianceOf = Annotated[
    str | None,
    typer.Option(
        help="Also the variance of loss and gradient under these ways to draw masks, separated by semicolons: "
        "SCHEDULE, SCHEDULE@A,B (clipped), masking:NAME.",
        metavar="LIST",
    ),
]
VarianceBatches = Annotated[
    int, typer.Option(help="Batches to measure variances over; 0 leaves them out.", min=0, metavar="N")
]


def variances(
    run: Run, packed: PackedSplit, result: Likelihood, wanted: str | None, batches: int, seed: int | None
) -> dict[str, Any]:
    """``var_nelbo`` under the run's own training masks, and ``variances`` under those `wanted`.

    The first is null, with ``var_nelbo_reason``, when a plugin it needs is missing or broken: nobody asked for it.

    Measured on the sequences of `result`, in batches of the size the run trained with.
    """
    from bd3cli.diffusion.scheme import parse_schemes
    from bd3cli.errors import InputError
    from bd3cli.studies.variances import measure_variances, own_variance

    recipe = run.recipe
    if batches == 0 and wanted is not None:
        raise InputError("--variance-of needs batches to measure; leave out --variance-batches 0.")
    if recipe is None or batches == 0:
        return {"var_nelbo": None}
    over: dict[str, Any] = {
        "sequences": result.sequences, "count": batches, "seed": recipe.eval.seed if seed is None else seed,
    }  # fmt: skip
    found = own_variance(run, recipe, packed, **over)
    if "var_nelbo_reason" in found:
        notice(f"{run.path}: evaluated without the Var. NELBO of its training masks. {found['var_nelbo_reason']}")
    if wanted is not None:
        found["variances"] = measure_variances(
            run, recipe, packed, parse_schemes(wanted, run.config.block_size), **over
        )
    return found


def print_variances(rows: list[dict[str, Any]]) -> None:
    """One table of all runs that were asked about."""
    rows = [{"run": row["run"], **found} for row in rows for found in row.get("variances", ())]
    if not rows:
        return
    print()
    print_table(
        (
            "run",
            "masks",
            "Var. NELBO",
            "95% interval",
            "/ mean²",
            "Var. gradient",
            "95% interval",
            "/ mean²",
            "learned",
        ),
        [
            (row["run"], row["name"], *_cells(row, "nelbo"), *_cells(row, "gradient"), row["learned"] or "-")
            for row in rows
        ],
    )
    first = rows[0]
    print(
        f"\nVariance of a block's loss per position (nats²), data and masks together, and of the gradient of a batch "
        f"of {first['batch_size']} sequences; {first['batches']} batches, intervals over batches. Clips are biased: "
        "compare them by variance over squared mean."
    )
    for kind in ("nelbo", "gradient"):
        print_notes([(f"Var. {kind} under {row['name']}", row[f"var_{kind}_notes"]) for row in rows])


def _cells(row: dict[str, Any], name: str) -> tuple[str, str, str]:
    value, ci, relative = row[f"var_{name}"], row[f"var_{name}_ci95"], row[f"var_{name}_relative"]
    return (
        "-" if value is None else f"{value:.4g}",
        "-" if ci is None else f"{ci[0]:.4g} to {ci[1]:.4g}",
        "-" if relative is None else f"{relative:.4g}",
    )
