"""What a run is made from: frozen dataclasses, one a recipe section. Light to import: no torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from bd3cli.errors import InputError, did_you_mean
from bd3cli.recipes.clips import clip_grid
from bd3cli.recipes.families import FAMILIES, Family, FamilyName, get_family, listed

TRACKERS = ("tensorboard", "wandb")
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 256, "blocks": 4, "heads": 4, "cond_dim": 128},
    "small": {"hidden_size": 768, "blocks": 12, "heads": 12, "cond_dim": 128},
    "medium": {"hidden_size": 1024, "blocks": 24, "heads": 16, "cond_dim": 128},
}


def option(default: Any, help: str) -> Any:
    """A dataclass field with its explanation, which `config show` and the docs print."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataConfig:
    """Where text comes from and how it becomes contexts of tokens."""

    name: str = option("pydocs", "registered data set, hub name, or local file or directory")
    tokenizer: str = option("bytes", "'bytes', a tiktoken encoding such as 'gpt2', a .tiktoken file, or hf:NAME")
    train: str | None = option(None, "file to train on, instead of the data set's own split")
    validation: str | None = option(None, "file to validate on, instead of the data set's own split")
    test: str | None = option(None, "file to test on, instead of the data set's own split")
    split_names: Literal["auto", "ignore"] = option(
        "auto", "a directory's files called train, valid, test, ...: keep those splits, or take all as one collection"
    )
    column: str | None = option(None, "text column of tabular data; the data set's own, else 'text'")
    document: Literal["auto", "file", "paragraph", "line"] = option("auto", "what one document is in plain text")
    packing: Literal["wrap", "pad"] = option("wrap", "cut the stream of documents, or one document a context")
    context: Literal["bos", "bos-eos"] = option("bos", "BOS + L-1 tokens, or the paper's BOS + L-2 tokens + EOS")
    max_documents: int | None = option(None, "train on a seeded subset of this many documents")
    subset_seed: int = option(0, "seed of that subset")
    detokenize: str = option("auto", "detokenizer: the data set's own ('auto'), 'none', or a name")
    workers: int = option(0, "tokenisation processes; 0 chooses")


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    size: Literal["tiny", "small", "medium"] = option("tiny", "preset for the four sizes below")
    length: int = option(128, "context length L in tokens")
    hidden_size: int = option(256, "width")
    blocks: int = option(4, "transformer blocks")
    heads: int = option(4, "attention heads")
    cond_dim: int = option(128, "width of the time embedding")
    dropout: float = option(0.1, "dropout on the residual branches")
    time_conditioning: bool | None = option(
        None, "tell the network the noise level; None: only where the family needs it (sedd)"
    )


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised in training. None of it reaches evaluation."""

    family: FamilyName = option("bd3lm", "ar, sedd or mdlm (block size = length), or bd3lm")
    block_size: int = option(4, "block size L' of bd3lm; divides the length")
    masking: str = option("count", "how training masks are drawn: 'count', 'adaptive', 'bernoulli', or a plugin's")
    schedule: str = option("loglinear", "noise schedule; only for maskings that draw a time")
    weight: str = option("none", "loss weight")
    clip: tuple[float, float] | None = option(None, "restrict t to [beta, omega] in training; biased, see the docs")
    clip_search: Literal["fix", "search"] = option("fix", "keep the clip, or search for the least Var. NELBO")
    clip_widths: str = option("0.5", "widths of the intervals a search tries, separated by commas")
    clip_step: float = option(0.1, "grid of the intervals' lower ends")
    clip_batches: int = option(8, "batches of validation text an interval is tried on, at every validation")
    resample: bool = option(False, "redraw masks until a block's masked fraction lies in the clip interval")
    random_batch: bool = option(
        False, "ar only: train on a random half of the tokens, as many as block diffusion with L'=1 masks"
    )
    normalise_weight: bool = option(False, "scale the loss weight to mean 1 under the training distribution")

    @property
    def traits(self) -> Family:
        """What its family's networks have in common."""
        return get_family(self.family)


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation and bookkeeping."""

    steps: int = option(1000, "optimizer steps")
    batch_size: int = option(32, "sequences a step, over all processes and micro-batches")
    micro_batch_size: int | None = option(None, "sequences a forward pass of a process; None: all of its batch at once")
    learning_rate: float = option(3e-4, "AdamW step size after warmup")
    beta1: float = option(0.9, "AdamW beta1")
    beta2: float = option(0.999, "AdamW beta2")
    weight_decay: float = option(0.0, "AdamW weight decay")
    gradient_clip: float = option(1.0, "largest gradient norm; 0 turns clipping off")
    warmup: int = option(2500, "linear warmup steps; at most a tenth of the run is used")
    horizon: int | None = option(
        None, "steps that the tenth and a schedule that moves are measured by; None: the steps the run begins with"
    )
    ema: float = option(0.9999, "decay of the weight average used in evaluation; 0 turns it off")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "bf16 autocast where the hardware has it")
    attention: str = option("auto", "block attention backend")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    compile: bool = option(False, "torch.compile the network")
    check_memory: bool = option(True, "refuse to start what cannot fit the free memory")
    check_laws: bool = option(True, "refuse to train with a schedule, weight or masking that breaks its laws")
    parallel: Literal["auto", "ddp", "fsdp"] = option("auto", "how torchrun's processes share the work; auto: ddp")
    log_every: int = option(10, "steps between metric records")
    validate_every: int = option(250, "steps between validations")
    validate_sequences: int = option(256, "sequences of the validation split to use, the same ones every time")
    checkpoint_every: int = option(250, "steps between checkpoints")
    keep_checkpoints: int = option(2, "most recent checkpoints kept beside the best one")
    tracking: str = option("none", "tensorboard, wandb, both separated by a comma, or none; metrics.jsonl in any case")


@dataclass(frozen=True)
class EvalConfig:
    """How likelihoods are estimated; shared by every model of a comparison."""

    estimator: Literal["count", "uniform", "exact"] = option("count", "estimator of the NELBO")
    control: Literal["none", "ngram"] = option("none", "control variate that lowers the noise of the estimate")
    draws: int = option(1, "forward passes a sequence for 'count' and 'uniform'")
    sequences: int | None = option(None, "sequences of the split to use; None: all")
    batch_size: int = option(32, "sequences a forward pass")
    seed: int = option(0, "seed of the estimator's masks")


@dataclass(frozen=True)
class Recipe:
    """A complete, validated description of a run."""

    name: str = option("tiny", "name of the recipe, used for the run directory")
    description: str = option("", "one line on what the recipe is for")
    seed: int = option(0, "seed of initialisation, data order, masks and dropout")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def block_size(self) -> int:
        """L' in effect: the whole length for mdlm and sedd, 1 for ar."""
        return self.objective.traits.block_size(self.objective.block_size, self.model.length)

    @property
    def time_conditioning(self) -> bool:
        """Whether the network is told the noise level."""
        return self.objective.traits.needs_time or bool(self.model.time_conditioning)

    @property
    def horizon(self) -> int:
        """Steps by which everything that depends on the length of the run is measured."""
        return self.train.steps if self.train.horizon is None else self.train.horizon

    @property
    def warmup_steps(self) -> int:
        """Warmup in effect: a tenth of the horizon at most, so that the learning rate arrives."""
        return min(self.train.warmup, max(self.horizon // 10, 1))

    def progress(self, step: int) -> float:
        """Fraction of the horizon done after `step` steps, for schedules that move; 1 beyond it."""
        return min(step / self.horizon, 1.0)

    def __post_init__(self) -> None:
        check_recipe(self)


# far beyond what any machine trains, and small enough that the checks that follow are instant
MOST = {
    "model.length": 10**7,
    "model.hidden_size": 10**6,
    "model.blocks": 10**4,
    "model.cond_dim": 10**6,
    "train.batch_size": 10**7,
    "train.micro_batch_size": 10**7,
}


def check_recipe(recipe: Recipe) -> None:
    """Refuse values that cannot work, before anything expensive starts.

    Raises:
        InputError: naming the key, the value and the remedy.
    """
    model, objective, train = recipe.model, recipe.objective, recipe.train
    for key, value, least in (
        ("model.length", model.length, 2),
        ("model.hidden_size", model.hidden_size, 2),
        ("model.blocks", model.blocks, 1),
        ("model.heads", model.heads, 1),
        ("model.cond_dim", model.cond_dim, 1),
        ("objective.block_size", objective.block_size, 1),
        ("objective.clip_batches", objective.clip_batches, 1),
        ("train.steps", train.steps, 1),
        ("train.batch_size", train.batch_size, 1),
        ("train.micro_batch_size", train.micro_batch_size, 1),
        ("train.warmup", train.warmup, 0),
        ("train.horizon", train.horizon, 1),
        ("train.log_every", train.log_every, 1),
        ("train.validate_every", train.validate_every, 1),
        ("train.validate_sequences", train.validate_sequences, 2),
        ("train.checkpoint_every", train.checkpoint_every, 1),
        ("train.keep_checkpoints", train.keep_checkpoints, 1),
        ("eval.draws", recipe.eval.draws, 1),
        ("eval.sequences", recipe.eval.sequences, 2),
        ("eval.batch_size", recipe.eval.batch_size, 1),
        ("data.max_documents", recipe.data.max_documents, 1),
        ("data.workers", recipe.data.workers, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"{key} must be at least {least}, not {value}.")
        if value is not None and value > (most := MOST.get(key, 10**15)):
            raise InputError(f"{key} must be at most {most:,}, not {value}.")
    for key, number, low, high in (
        ("model.dropout", model.dropout, 0.0, 0.999),
        ("train.ema", train.ema, 0.0, 0.999999),
        ("train.beta1", train.beta1, 0.0, 0.999999),
        ("train.beta2", train.beta2, 0.0, 0.999999),
        ("train.learning_rate", train.learning_rate, 1e-12, 10.0),
        ("train.weight_decay", train.weight_decay, 0.0, 10.0),
        ("train.gradient_clip", train.gradient_clip, 0.0, 1e9),
    ):
        if not low <= number <= high:  # also refuses NaN
            raise InputError(f"{key} must lie between {low:g} and {high:g}, not {number}.")
    if model.hidden_size % model.heads or (model.hidden_size // model.heads) % 2:
        raise InputError(
            f"model.hidden_size {model.hidden_size} cannot be split into {model.heads} heads of even width. "
            "Choose model.heads so that hidden_size / heads is an even whole number."
        )
    if model.length % recipe.block_size:
        fitting = [str(d) for d in range(1, model.length + 1) if model.length % d == 0]
        raise InputError(
            f"objective.block_size {recipe.block_size} does not divide model.length {model.length}. "
            f"Choose one of {', '.join(fitting)}, or another length."
        )
    for name in trackers(train.tracking):
        if name not in TRACKERS:
            raise InputError(
                f"train.tracking names {name!r}; there is {', '.join(TRACKERS)}.{did_you_mean(name, TRACKERS)}"
            )
    _check_objective(recipe)
    _check_time_conditioning(recipe)
    micro = train.micro_batch_size
    if micro is not None and train.batch_size % micro:
        raise InputError(
            f"train.micro_batch_size {micro} does not divide train.batch_size {train.batch_size}. "
            "Choose a divisor, so that every micro-batch weighs the same."
        )


def _check_objective(recipe: Recipe) -> None:
    objective, default = recipe.objective, ObjectiveConfig()
    if objective.clip is not None:
        beta, omega = objective.clip
        if not 0 <= beta < omega <= 1:
            raise InputError(f"objective.clip {beta:g},{omega:g} is not an interval. It needs 0 <= beta < omega <= 1.")
    if objective.resample and objective.clip is None:
        raise InputError("objective.resample needs objective.clip: it redraws masks until they lie inside it.")
    if objective.clip_search == "fix":
        for key in ("clip_widths", "clip_step", "clip_batches"):
            if getattr(objective, key) != getattr(default, key):
                raise InputError(
                    f"objective.{key} has no effect while the clip is fixed. Leave it out, or set "
                    "objective.clip_search to 'search'."
                )
    else:
        clip_grid(objective.clip_widths, objective.clip_step)
    unread = objective.traits.unread
    for key in unread.keys:
        if getattr(objective, key) != getattr(default, key):
            raise InputError(
                f"objective.{key} has no effect on family {objective.family!r}, {unread.because}. Leave it out, or "
                f"choose family {listed(f for f in FAMILIES.values() if key not in f.unread.keys)}."
            )


def _check_time_conditioning(recipe: Recipe) -> None:
    wanted, family = recipe.model.time_conditioning, recipe.objective.traits
    able = [f for f in FAMILIES.values() if f.tells_level]
    if family.needs_time and wanted is False:
        raise InputError(
            f"model.time_conditioning cannot be false for family {family.name!r}: a score belongs to a noise level. "
            f"Set it to none, or choose family {listed(f for f in able if not f.needs_time)}."
        )
    if wanted and recipe.block_size < recipe.model.length:
        raise InputError(
            f"model.time_conditioning tells the network one noise level a sequence, but family {family.name!r} with "
            f"block size {recipe.block_size} of {recipe.model.length} tokens has {family.noise_levels}. Set it "
            f"to none, or choose family {listed(able)}."
        )


def trackers(text: str) -> list[str]:
    """The names in `train.tracking`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return list(dict.fromkeys(name for name in names if name != "none"))


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested plain values, ready for JSON or TOML."""
    return dataclasses.asdict(recipe)
