"""The variances that `bd3cli eval` shows: of the run's own training masks, and of others asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from bd3cli.cli.common import notice, print_notes
from bd3cli.cli.view.tables import print_table

if TYPE_CHECKING:
    from bd3cli.data import PackedSplit
    from bd3cli.evaluation import Likelihood
    from bd3cli.runs import Run
    from bd3cli.studies.variances import OwnVariance, VarianceRow

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


@dataclass(frozen=True)
class Variances:
    """Of a run's own training masks, and of those asked about, None when nobody asked."""

    own: OwnVariance
    wanted: list[VarianceRow] | None = None

    def summary(self) -> dict[str, object]:
        """JSON fields of ``eval``."""
        return {**self.own} if self.wanted is None else {**self.own, "variances": self.wanted}


def variances(
    run: Run, packed: PackedSplit, result: Likelihood, wanted: str | None, batches: int, seed: int | None
) -> Variances:
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
        return Variances({"var_nelbo": None})
    seed = recipe.eval.seed if seed is None else seed
    found = own_variance(run, recipe, packed, sequences=result.sequences, count=batches, seed=seed)
    if "var_nelbo_reason" in found:
        notice(f"{run.path}: evaluated without the Var. NELBO of its training masks. {found['var_nelbo_reason']}")
    if wanted is None:
        return Variances(found)
    schemes = parse_schemes(wanted, run.config.block_size)
    rows = measure_variances(run, recipe, packed, schemes, sequences=result.sequences, count=batches, seed=seed)
    return Variances(found, rows)


def print_variances(found: Sequence[tuple[str, Variances]]) -> None:
    """One table of all runs that were asked about, given with their names."""
    rows = [(run, row) for run, variances in found for row in variances.wanted or ()]
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
        [(run, row["name"], *_nelbo(row), *_gradient(row), row["learned"] or "-") for run, row in rows],
    )
    first = rows[0][1]
    print(
        f"\nVariance of a block's loss per position (nats²), data and masks together, and of the gradient of a batch "
        f"of {first['batch_size']} sequences; {first['batches']} batches, intervals over batches. Clips are biased: "
        "compare them by variance over squared mean."
    )
    print_notes([(f"Var. nelbo under {row['name']}", row["var_nelbo_notes"]) for _, row in rows])
    print_notes([(f"Var. gradient under {row['name']}", row.get("var_gradient_notes", [])) for _, row in rows])


def _nelbo(row: VarianceRow) -> tuple[str, str, str]:
    return _cells(row["var_nelbo"], row["var_nelbo_ci95"], row["var_nelbo_relative"])


def _gradient(row: VarianceRow) -> tuple[str, str, str]:
    return _cells(row.get("var_gradient"), row.get("var_gradient_ci95"), row.get("var_gradient_relative"))


def _cells(value: float | None, ci: list[float] | None, relative: float | None) -> tuple[str, str, str]:
    return (
        "-" if value is None else f"{value:.4g}",
        "-" if ci is None else f"{ci[0]:.4g} to {ci[1]:.4g}",
        "-" if relative is None else f"{relative:.4g}",
    )
