"""A trained model, ready to use: the network with its averaged weights, the tokenizer and the recipe."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bd3cli.attention import choose_backend
from bd3cli.data import PackedSplit, Tokenizer, load_split, load_tokenizer
from bd3cli.data.splits import Split
from bd3cli.device import choose_device
from bd3cli.diffusion.sedd import log_scores
from bd3cli.diffusion.subs import subs_log_probs
from bd3cli.errors import InputError
from bd3cli.evaluation import Likelihood, likelihood
from bd3cli.evaluation.likelihood import Progress
from bd3cli.model import Transformer, TransformerConfig, evaluating, load_tensors
from bd3cli.model.config import network_config
from bd3cli.model.formats.upstream import is_upstream, load_upstream
from bd3cli.plugins import require_used
from bd3cli.recipes.resolve import from_toml
from bd3cli.recipes.settings import Recipe
from bd3cli.runs.checkpoints import CheckpointStore
from bd3cli.runs.directory import RECIPE, RunDirectory
from bd3cli.runs.records import RunRecord, SplitFacts
from bd3cli.sampling.stopping import EntropyStop, StopRule, entropy_rule


@dataclass(frozen=True)
class Run:
    """A run opened for evaluation and sampling.

    Attributes:
        path: where it was read from.
        model: the network in evaluation mode, averaged weights when the run kept an average.
        tokenizer: None for an upstream-layout checkpoint, which does not name one.
        recipe: None for an upstream-layout checkpoint.
        record: the run record, empty for an upstream-layout checkpoint.
        checkpoint: name of the checkpoint loaded.
        step: optimizer steps behind it.
    """

    path: Path
    model: Transformer
    tokenizer: Tokenizer | None
    recipe: Recipe | None
    record: RunRecord
    checkpoint: str
    step: int | None

    @property
    def config(self) -> TransformerConfig:
        return self.model.config

    @staticmethod
    def load(path: str | Path, *, checkpoint: str = "best", device: str = "auto", attention: str = "auto") -> Run:
        """See `bd3cli.load`."""
        folder, where = Path(path), choose_device(device)
        backend = choose_backend(attention, where, torch.float32).name
        if is_upstream(folder):
            model = load_upstream(folder, backend).to(where)
            return Run(folder, model, None, None, RunRecord(), "model.safetensors", None)
        record = RunDirectory(folder).read_record()
        recipe = read_recipe(folder)
        require_used(record.used, str(folder), ("tokenizer",))
        tokenizer = load_tokenizer(recipe.data.tokenizer)
        recorded = record.fingerprint
        if recorded != tokenizer.fingerprint:
            raise InputError(
                f"The tokenizer {recipe.data.tokenizer!r} is not the one {folder} was trained with "
                f"(fingerprint {tokenizer.fingerprint[:12]}, recorded {str(recorded)[:12]}). Restore the original."
            )
        found = CheckpointStore(folder / "checkpoints").load(checkpoint)
        model = Transformer(network_config(recipe, tokenizer), backend)
        load_tensors(model, found.weights(average=bool(recipe.train.ema)), str(found.path))
        return Run(folder, model.to(where).eval(), tokenizer, recipe, record, found.path.name, found.step)

    @torch.inference_mode()
    def logits(self, x_t: Tensor, x_0: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        """Log-probabilities [B, L, V] after the SUBS parameterization; for ``sedd`` log-scores.

        Args:
            x_t: [B, L] noisy ids; for ``ar`` the clean tokens, and position i holds the log-probabilities
                of token i + 1.
            x_0: [B, L] clean ids, required by ``bd3lm`` with more than one block.
            sigma: [B] noise levels, for networks conditioned on time.

        Raises:
            InputError: inputs that do not fit the network.
        """
        c = self.config
        blocks = c.two_halves
        if blocks != (x_0 is not None):
            need = "needs x_0, the clean tokens beside x_t" if blocks else "takes no x_0"
            raise InputError(f"A {c.family} network with block size {c.block_size} {need}.")
        if x_0 is not None and x_0.shape != x_t.shape:
            raise InputError(f"x_t is {list(x_t.shape)} and x_0 is {list(x_0.shape)}; they must have one shape.")
        if blocks and x_t.shape[1] % c.block_size:
            raise InputError(f"{x_t.shape[1]} positions are not whole blocks of {c.block_size} tokens.")
        if c.time_conditioning != (sigma is not None):
            need = "needs sigma, the noise level [B]" if c.time_conditioning else "takes no sigma: it does not see time"
            raise InputError(f"This {c.family} network {need}.")
        if sigma is not None and sigma.shape != x_t.shape[:1]:
            raise InputError(f"sigma is {list(sigma.shape)}; it needs one value a sequence, [{x_t.shape[0]}].")
        with evaluating(self.model):
            logits = self.model.logits(self.model(x_t, x_0, sigma)).float()
        if c.traits.parameterization == "score":
            assert sigma is not None, "a score is conditioned on time"
            return log_scores(logits, x_t, sigma)
        if c.mask_id is None:
            return logits.log_softmax(-1)
        if c.traits.parameterization == "next-token":
            logits[..., c.mask_id] = -torch.inf
            return logits.log_softmax(-1)
        return subs_log_probs(logits, x_t, c.mask_id)

    def split(
        self, name: Split = "test", data: str | None = None, column: str | None = None, progress: Any = None
    ) -> PackedSplit:
        """A split of the run's own data, or of `data` (its text in `column`), packed as the run was trained.

        A single local file given as `data` is evaluated whole; it is not divided into splits first.
        """
        recipe = self.require_recipe()
        config = recipe.data
        if data is None and getattr(config, name) is None:
            require_used(self.record.used, str(self.path), ("dataset",))
        if data is not None:
            whole = data if Path(data).is_file() else None
            config = replace(
                config,
                name=data,
                split_names="auto",
                column=column,
                train=whole if name == "train" else None,
                validation=whole if name == "validation" else None,
                test=whole if name == "test" else None,
            )
        elif column is not None:
            config = replace(config, column=column)
        packed = load_split(config, name, recipe.model.length, progress=progress)
        if data is None:
            self._require_same_division(name, packed)
        return packed

    def _require_same_division(self, name: Split, packed: PackedSplit) -> None:
        """Refuse held-out text that another version divided off: this run may have been trained on it."""
        recipe = self.require_recipe()
        before = self.record.data.get("train", SplitFacts()).split_policy
        now = packed.description.get("split_policy", "")
        if name != "train" and before.startswith("90/5/5") and now != before and getattr(recipe.data, name) is None:
            raise InputError(
                f"{self.path} was trained when {recipe.data.name} was divided otherwise, so its {name} text now may be "
                f"text it was trained on. Give other text with --data, or train again. Recorded: {before}. Now: {now}."
            )

    def evaluate(
        self,
        split: PackedSplit,
        *,
        estimator: str | None = None,
        control: str | None = None,
        draws: int | None = None,
        sequences: int | None = None,
        seed: int | None = None,
        seeds: int = 1,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Likelihood:
        """Likelihood of a split; what is None comes from the recipe's ``eval`` section."""
        defaults = self.require_recipe().eval
        return likelihood(
            self.model,
            split,
            self.tokenizer,
            estimator=estimator or defaults.estimator,
            control=control or defaults.control,
            draws=draws or defaults.draws,
            sequences=sequences or defaults.sequences,
            seed=defaults.seed if seed is None else seed,
            seeds=seeds,
            batch_size=batch_size or defaults.batch_size,
            progress=progress,
        )

    def stop_rule(self, min_entropy: float | None = None) -> StopRule:
        """When samples of variable length end: at EOS, or once their entropy is under a threshold.

        Args:
            min_entropy: the threshold in nats; 0 turns the rule off; None takes the one recorded with the run,
                which is computed from the run's data and recorded now if it is not there yet.
        """
        if self.tokenizer is None:
            self.require_recipe()
        assert self.tokenizer is not None
        if min_entropy is None:
            min_entropy = self._entropy_stop["threshold"]
        return StopRule(self.tokenizer.eos_id, min_entropy or None)

    @cached_property
    def _entropy_stop(self) -> EntropyStop:
        """What the record says, or what belongs there, recorded now."""
        if self.record.entropy_stop is not None:
            return self.record.entropy_stop
        assert self.tokenizer is not None, "stop_rule has asked"
        found = entropy_rule(self.split("train"), self.tokenizer)
        with contextlib.suppress(OSError):  # a run one may only read
            RunDirectory(self.path).update_record(entropy_stop=found)
        return found

    def require_recipe(self) -> Recipe:
        """The recipe.

        Raises:
            InputError: a bare checkpoint has none.
        """
        if self.recipe is None:
            raise InputError(
                f"{self.path} is a bare checkpoint: it names no tokenizer and no data, so it cannot be evaluated "
                "or sampled from the command line."
            )
        return self.recipe


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run directory."""
    path = folder / RECIPE
    try:
        return from_toml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. The run directory is incomplete.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
