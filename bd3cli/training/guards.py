"""Stop a run whose loss or gradient is not finite, and give notice when the loss jumps."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from bd3cli.errors import RunError
from bd3cli.training.distributed import whole

if TYPE_CHECKING:
    from bd3cli.runs.directory import RunDirectory
    from bd3cli.training.batches import StepData
    from bd3cli.training.reporter import Reporter
    from bd3cli.training.trainer import Trainer

HISTORY, LEAST = 50, 20  # losses a jump is judged by, and how many it takes to judge


class Guard:
    """Looks at every step's loss and gradient norm.

    On the CPU it looks before the weights are updated. An accelerator is not made to wait: there it looks at
    all steps since the last look together, when their numbers are wanted anyway, and always before anything
    is saved.
    """

    def __init__(self, trainer: Trainer, run: RunDirectory, reporter: Reporter) -> None:
        self._trainer, self._run, self._reporter = trainer, run, reporter
        self._unseen: list[tuple[int, Tensor, Tensor, StepData]] = []
        self._losses: deque[float] = deque(maxlen=HISTORY)
        self._quiet_until = 0

    def note(self, loss: Tensor, norm: Tensor, data: StepData) -> None:
        """Take in the step at hand, before its update.

        Raises:
            RunError: on the CPU, its loss or gradient is not finite.
        """
        self._unseen.append((self._trainer.step + 1, loss, norm, data))
        if self._trainer.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Look at the steps not looked at yet.

        Raises:
            RunError: the loss or gradient of one is not finite.
        """
        if not self._unseen:
            return
        values = torch.stack([torch.stack((loss.float(), norm.float())) for _, loss, norm, _ in self._unseen]).tolist()
        unseen, self._unseen = self._unseen, []
        for (step, _, _, data), (loss, norm) in zip(unseen, values, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._refuse(step, loss, norm, data)
            self._notice_jump(step, loss)
            self._losses.append(loss)

    def _notice_jump(self, step: int, loss: float) -> None:
        """A loss far above the last ones: eight of their own deviations, and half as high again."""
        if len(self._losses) < LEAST or step < self._quiet_until:
            return
        usual = statistics.median(self._losses)
        spread = 1.4826 * statistics.median(abs(x - usual) for x in self._losses)  # the deviation of a normal law
        if loss > usual + 8 * spread and loss > 1.5 * usual:
            self._quiet_until = step + HISTORY
            self._reporter.notice(
                f"step {step}: the loss jumped to {loss:.3f} from about {usual:.3f}. If it stays high, resume from an "
                "earlier checkpoint, or start again with a lower train.learning_rate or a longer train.warmup."
            )

    def _refuse(self, step: int, loss: float, norm: float, data: StepData) -> None:
        trainer = self._trainer
        facts = diagnosis(trainer, step, loss, norm, data)
        name = f"nonfinite-step-{step:08d}.json"
        if trainer.group.leads:
            self._run.save_diagnosis(name, facts)
        objective, shown = trainer.recipe.objective, ", ".join(map(str, data.indices[:8]))
        masked, weight = facts["masked_fraction"], facts["loss_weight"]
        raise RunError(
            f"The loss is {loss} with gradient norm {norm} at step {step} (schedule {objective.schedule}, weight "
            f"{objective.weight}, masking {objective.masking}; {masked[0]:.2f} to {masked[1]:.2f} of a block masked, "
            f"loss weights {weight[0]:.3g} to {weight[1]:.3g}; sequences {shown}"
            f"{', ...' if len(data.indices) > 8 else ''}). All of them are in {self._run.path / name}. "
            "The last checkpoint is intact; lower train.learning_rate or use --precision fp32."
        )


class Diagnosis(TypedDict):
    """``nonfinite-step-*.json``."""

    schema: int
    step: int
    loss: str
    gradient_norm: str
    learning_rate: float
    sequences: list[int]
    data_fingerprint: str
    masked_fraction: list[float]
    loss_weight: list[float]
    nonfinite_weights: list[str]
    nonfinite_gradients: list[str]


def diagnosis(trainer: Trainer, step: int, loss: float, norm: float, data: StepData) -> Diagnosis:
    """What is known about a step whose numbers are none; ranges are over this process's share of the batch."""
    parameters = list(trainer.model.named_parameters())
    weights = torch.cat([batch.weight for batch in data.batches])
    return {
        "schema": 1,
        "step": step,
        "loss": str(loss),
        "gradient_norm": str(norm),
        "learning_rate": trainer.optimizer.param_groups[0]["lr"],
        "sequences": data.indices,
        "data_fingerprint": trainer.train.fingerprint,
        "masked_fraction": masked_range(trainer, data),
        "loss_weight": [float(weights.min()), float(weights.max())] if len(weights) else [0.0, 0.0],
        "nonfinite_weights": [name for name, p in parameters if not torch.isfinite(whole(p.detach())).all()],
        "nonfinite_gradients": [
            name for name, p in parameters if p.grad is not None and not torch.isfinite(whole(p.grad)).all()
        ],
    }


def masked_range(trainer: Trainer, data: StepData) -> list[float]:
    """The smallest and the largest masked fraction of a block."""
    size, low, high = trainer.objective.block_size, 1.0, 0.0
    for batch in data.batches:
        blocks = batch.x_t.numel() // size
        counts = torch.bincount(batch.index // size, minlength=blocks).double() / size
        low, high = min(low, float(counts.min())), max(high, float(counts.max()))
    return [low, high]
