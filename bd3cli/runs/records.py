"""What the files of a run say: ``run.json``, ``metrics.jsonl``, and of each checkpoint ``state.json`` and its like.

Fields stand in the order in which they are written. Those that older versions did not write have defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict, cast

from torch import Tensor

from bd3cli.evaluation.clip_search import ChosenClip
from bd3cli.evaluation.likelihood import LikelihoodSummary
from bd3cli.records import Record, as_plain, optional
from bd3cli.sampling.stopping import EntropyStop


class Machine(TypedDict, total=False):
    """Hardware and its use."""

    platform: str
    processor: str
    cores: int | None
    threads: int


class GitState(TypedDict):
    """The repository a run was started in."""

    commit: str
    dirty: bool


class Processes(TypedDict):
    """How many processes shared the work, and how."""

    number: int
    parallel: str


class PrecisionChoice(TypedDict, total=False):
    """The precision trained in, and why."""

    name: str
    reason: str


class AttentionChoice(TypedDict, total=False):
    """The attention backend, and why."""

    backend: str
    reason: str


class TokenizerFacts(TypedDict, total=False):
    """Which tokenizer, and the fingerprint that tells it from another of the name."""

    name: str
    fingerprint: str


class UsedPlugin(TypedDict):
    """What draws or weighs, and the distribution it came with."""

    name: str
    distribution: str
    version: str


class Imported(TypedDict):
    """Where an imported run came from.

    Attributes:
        config: fields of its ``config.json``, or what stood for them.
        clip: the interval its training drew times from, where it kept one.
    """

    source: str
    format: str
    sha256: str
    weights_sha256: str
    config: dict[str, object]
    clip: list[float] | None


class Ancestor(TypedDict):
    """A run that another one descends from, and which of its weights were taken."""

    run: str
    checkpoint: str
    step: int
    weights: str
    weights_sha256: str
    optimizer: str
    family: str
    block_size: int
    imported: Imported | None


class Parent(Ancestor):
    """The same with its recipe, and its own parent."""

    recipe: dict[str, object] | None
    parent: Parent | None


class Resume(TypedDict, total=False):
    """One time a run was taken up again."""

    step: int
    argv: list[str]
    stream_version: int


@dataclass(frozen=True, kw_only=True)
class SplitFacts(Record):
    """The data of a split. What `bd3cli.data` says of them besides is kept."""

    fingerprint: str | None = None
    split_policy: str = optional("")


@dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """How far training has come.

    Attributes:
        masked_tokens: tokens that carried loss so far.
        clip: the interval of the last step.
        masking: what a masking that learns says it has learned.
        clip_search: intervals chosen so far, where they are searched for.
    """

    masked_tokens: int | None = None
    clip: tuple[float, float] | None = None
    masking: object = optional(None)
    clip_search: list[ChosenClip] | None = optional(None)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """``run.json``: what was asked, with which software and data, and what came of it.

    Attributes:
        status: ``running``, ``finished``, ``interrupted``, ``paused``, ``failed`` or ``imported``.
        stream_version: of the random streams; records older than the field mean 1.
        recipe, sources: dotted key -> value, and where it came from.
        uses: kind -> name, distribution and version of the plugin that draws or weighs.
        horizon: steps that the warmup and the schedule are measured by.
        seconds: how long training took, in a reproduction.
    """

    schema: int = 1
    status: str | None = None
    created: str | None = None
    argv: tuple[str, ...] = ()
    seed: int | None = None
    stream_version: int = 1
    recipe: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    plugins: tuple[dict[str, object], ...] = ()
    uses: dict[str, UsedPlugin] = field(default_factory=dict)
    machine: Machine | None = None
    git: GitState | None = None
    device: str | None = optional(None)
    memory_estimate: int | None = optional(None)
    processes: Processes | None = optional(None)
    precision: PrecisionChoice | None = optional(None)
    attention: AttentionChoice | None = optional(None)
    step: int | None = optional(None)
    parameters: int | None = optional(None)
    horizon: int | None = optional(None)
    warmup_steps: int | None = optional(None)
    tokenizer: TokenizerFacts | None = optional(None)
    imported: Imported | None = optional(None)
    entropy_stop: EntropyStop | None = optional(None)
    data: dict[str, SplitFacts] = optional({})
    parent: Parent | None = optional(None)
    resumes: tuple[Resume, ...] = optional(())
    validation: LikelihoodSummary | None = optional(None)
    progress: Progress | None = optional(None)
    seconds: float = optional(0.0)

    @property
    def used(self) -> dict[str, dict[str, str]]:
        """`uses`, as `bd3cli.plugins.require_used` takes it."""
        return cast("dict[str, dict[str, str]]", self.uses)

    @property
    def fingerprint(self) -> str | None:
        """Of the tokenizer."""
        return self.tokenizer.get("fingerprint") if self.tokenizer else None


@dataclass(frozen=True, kw_only=True)
class MetricsRow(Record):
    """A line of ``metrics.jsonl``: after `step` optimizer steps."""

    step: int

    def number(self, name: str) -> float | None:
        """``loss``, ``gradient_norm``, ..., or ``validation.nats_per_token`` and its like; None where there is none."""
        value: object = self.document or as_plain(self)
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True, kw_only=True)
class StepRow(MetricsRow):
    """What training said of its last step.

    Attributes:
        loss: nats per predicted token.
        gradient_norm: before clipping.
        tokens_per_second: predicted tokens over the seconds spent training since the row before.
    """

    loss: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    masked_tokens: int | None = None

    def numbers(self) -> dict[str, float]:
        """The numbers by name."""
        return {key: value for key, value in as_plain(self).items() if key != "step"}


@dataclass(frozen=True, kw_only=True)
class _Validated(MetricsRow):
    validation: LikelihoodSummary


@dataclass(frozen=True, kw_only=True)
class ValidationRow(Progress, _Validated):
    """A validation of the averaged weights, and how far training had come."""


class MaskedTokens(TypedDict):
    """The part of `SavedProgress` that is always there."""

    masked_tokens: int


class LearnedState(TypedDict):
    """What a masking's learner has learned, and what it had at the beginning of each window of steps in use."""

    learner: dict[str, object]
    windows: dict[int, dict[str, object]]


class SavedProgress(MaskedTokens, total=False):
    """``progress.json`` of a checkpoint: what was learned and searched about masks; None where nothing was."""

    masking: LearnedState | None
    clip_search: list[ChosenClip] | None


class AdamState(TypedDict):
    """AdamW's state of one parameter."""

    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class ParameterGroup(TypedDict):
    """The parameters of a group by number; its settings stand beside them."""

    params: list[int]


class OptimizerState(TypedDict):
    """``AdamW.state_dict()``: by number of the parameter, and its groups."""

    state: dict[int, AdamState]
    param_groups: list[ParameterGroup]


class WarmupState(TypedDict):
    """``LambdaLR.state_dict()``, of which this is looked at."""

    last_epoch: int


class SavedOptimizer(TypedDict):
    """``optimizer.pt`` of a checkpoint."""

    optimizer: OptimizerState
    warmup: WarmupState


@dataclass(frozen=True, kw_only=True)
class CheckpointState(Record):
    """``state.json`` of a checkpoint.

    Attributes:
        sha256: file name -> checksum.
        validation: of the weights in it, where there was one.
    """

    schema: int = 1
    step: int
    sha256: dict[str, str]
    validation: LikelihoodSummary | None = optional(None)


@dataclass(frozen=True, kw_only=True)
class BestMark(Record):
    """``best.json``: the checkpoint with the lowest validation NELBO so far."""

    checkpoint: str
    nats_per_token: float
