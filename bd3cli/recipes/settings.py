"""What a run is made from: frozen dataclasses, one a recipe section. Light to import: no torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from bd3cli.errors import InputError, did_you_mean
from bd3cli.recipes.clips import clip_grid
from bd3cli.recipes.families import FAMILIES, Family, FamilyName, get_family, listed
from bd3cli.recipes.options import Reader, facts, option, require_ranges

TRACKERS = ("tensorboard", "wandb")
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 256, "blocks": 4, "heads": 4, "cond_dim": 128},
    "small": {"hidden_size": 768, "blocks": 12, "heads": 12, "cond_dim": 128},
    "medium": {"hidden_size": 1024, "blocks": 24, "heads": 16, "cond_dim": 128},
}


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
    max_documents: int | None = option(None, "train on a seeded subset of this many documents", least=1)
    subset_seed: int = option(0, "seed of that subset")
    detokenize: str = option("auto", "detokenizer: the data set's own ('auto'), 'none', or a name")
    workers: int = option(0, "tokenisation processes; 0 chooses", least=0, resumable=True)


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    size: Literal["tiny", "small", "medium"] = option("tiny", "preset for the four sizes below")
    length: int = option(128, "context length L in tokens", least=2, most=10**7)
    hidden_size: int = option(256, "width", least=2, most=10**6)
    blocks: int = option(4, "transformer blocks", least=1, most=10**4)
    heads: int = option(4, "attention heads", least=1)
    cond_dim: int = option(128, "width of the time embedding", least=1, most=10**6)
    dropout: float = option(0.1, "dropout on the residual branches", within=(0.0, 0.999))
    time_conditioning: bool | None = option(
        None, "tell the network the noise level; None: only where the family needs it (sedd)"
    )


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised in training. None of it reaches evaluation."""

    family: FamilyName = option("bd3lm", "ar, sedd or mdlm (block size = length), or bd3lm")
    block_size: int = option(4, "block size L' of bd3lm; divides the length", least=1)
    masking: str = option("count", "how training masks are drawn: 'count', 'adaptive', 'bernoulli', or a plugin's")
    schedule: str = option("loglinear", "noise schedule; only for maskings that draw a time", reader="time")
    weight: str = option("none", "loss weight", reader="masks")
    clip: tuple[float, float] | None = option(
        None, "restrict t to [beta, omega] in training; biased, see the docs", reader="time"
    )
    clip_search: Literal["fix", "search"] = option(
        "fix", "keep the clip, or search for the least Var. NELBO", reader="time"
    )
    clip_widths: str = option("0.5", "widths of the intervals a search tries, separated by commas", reader="search")
    clip_step: float = option(0.1, "grid of the intervals' lower ends", reader="search")
    clip_batches: int = option(
        8, "batches of validation text an interval is tried on, at every validation", least=1, reader="search"
    )
    resample: bool = option(
        False, "redraw masks until a block's masked fraction lies in the clip interval", reader="time"
    )
    random_batch: bool = option(
        False,
        "ar only: train on a random half of the tokens, as many as block diffusion with L'=1 masks",
        reader="next-token",
    )
    normalise_weight: bool = option(
        False, "scale the loss weight to mean 1 under the training distribution", reader="masks"
    )

    @property
    def traits(self) -> Family:
        """What its family's networks have in common."""
        return get_family(self.family)


def read_by(*readers: Reader) -> tuple[str, ...]:
    """The names in the section ``objective`` that nobody else reads."""
    return tuple(name for name, known in facts(ObjectiveConfig).items() if known.reader in readers)


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation and bookkeeping."""

    steps: int = option(1000, "optimizer steps", least=1, resumable=True)
    batch_size: int = option(32, "sequences a step, over all processes and micro-batches", least=1, most=10**7)
    micro_batch_size: int | None = option(
        None,
        "sequences a forward pass of a process; None: all of its batch at once",
        least=1,
        most=10**7,
        resumable=True,
    )
    learning_rate: float = option(3e-4, "AdamW step size after warmup", within=(1e-12, 10.0))
    beta1: float = option(0.9, "AdamW beta1", within=(0.0, 0.999999))
    beta2: float = option(0.999, "AdamW beta2", within=(0.0, 0.999999))
    weight_decay: float = option(0.0, "AdamW weight decay", within=(0.0, 10.0))
    gradient_clip: float = option(1.0, "largest gradient norm; 0 turns clipping off", within=(0.0, 1e9))
    warmup: int = option(2500, "linear warmup steps; at most a tenth of the run is used", least=0)
    horizon: int | None = option(
        None,
        "steps that the tenth and a schedule that moves are measured by; None: the steps the run begins with",
        least=1,
    )
    ema: float = option(
        0.9999, "decay of the weight average used in evaluation; 0 turns it off", within=(0.0, 0.999999)
    )
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "bf16 autocast where the hardware has it")
    attention: str = option("auto", "block attention backend", resumable=True)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", resumable=True)
    compile: bool = option(False, "torch.compile the network", resumable=True)
    check_memory: bool = option(True, "refuse to start what cannot fit the free memory", resumable=True)
    check_laws: bool = option(
        True, "refuse to train with a schedule, weight or masking that breaks its laws", resumable=True
    )
    parallel: Literal["auto", "ddp", "fsdp"] = option(
        "auto", "how torchrun's processes share the work; auto: ddp", resumable=True
    )
    log_every: int = option(10, "steps between metric records", least=1, resumable=True)
    validate_every: int = option(250, "steps between validations", least=1, resumable=True)
    validate_sequences: int = option(256, "sequences of the validation split to use, the same ones every time", least=2)
    checkpoint_every: int = option(250, "steps between checkpoints", least=1, resumable=True)
    keep_checkpoints: int = option(2, "most recent checkpoints kept beside the best one", least=1, resumable=True)
    tracking: str = option(
        "none", "tensorboard, wandb, both separated by a comma, or none; metrics.jsonl in any case", resumable=True
    )


@dataclass(frozen=True)
class EvalConfig:
    """How likelihoods are estimated; shared by every model of a comparison."""

    estimator: Literal["count", "uniform", "exact"] = option("count", "estimator of the NELBO")
    control: Literal["none", "ngram"] = option("none", "control variate that lowers the noise of the estimate")
    draws: int = option(1, "forward passes a sequence for 'count' and 'uniform'", least=1)
    sequences: int | None = option(None, "sequences of the split to use; None: all", least=2)
    batch_size: int = option(32, "sequences a forward pass", least=1)
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


def check_recipe(recipe: Recipe) -> None:
    """Refuse values that cannot work, before anything expensive starts.

    Raises:
        InputError: naming the key, the value and the remedy.
    """
    model, train = recipe.model, recipe.train
    require_ranges(recipe)
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
        for key in read_by("search"):
            if getattr(objective, key) != getattr(default, key):
                raise InputError(
                    f"objective.{key} has no effect while the clip is fixed. Leave it out, or set "
                    "objective.clip_search to 'search'."
                )
    else:
        clip_grid(objective.clip_widths, objective.clip_step)
    family = objective.traits
    for key, known in facts(ObjectiveConfig).items():
        reader = known.reader
        if reader and not family.has_reader(reader) and getattr(objective, key) != getattr(default, key):
            raise InputError(
                f"objective.{key} has no effect on family {family.name!r}, {family.mask_use}. Leave it out, or "
                f"choose family {listed(f for f in FAMILIES.values() if f.has_reader(reader))}."
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
