"""What a plugin may add: one row a kind, which registries, messages and the scaffold are made from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of thing a plugin may register.

    Attributes:
        key: its name in a run's record and in ``plugins new --kind``.
        noun: how messages call one.
        hook: the function a plugin implements to register some.
        base: ``"module:Class"`` of the base class; named and not imported, since it lives above this room.
        record: ``"module:Class"`` whose instances will do in place of a subclass; None for none.
        underscores: whether names may have underscores, as published names of data do.
    """

    key: str
    noun: str
    hook: str
    base: str
    record: str | None = None
    underscores: bool = False


KINDS = (
    Kind("schedule", "noise schedule", "register_noise_schedules", "bd3cli.schedules:NoiseSchedule"),
    Kind("weight", "loss weight", "register_loss_weights", "bd3cli.weights:LossWeight"),
    Kind("masking", "masking", "register_maskings", "bd3cli.maskings:Masking"),
    Kind("sampler", "sampler", "register_samplers", "bd3cli.sampling:Batch"),
    Kind("dataset", "data set", "register_datasets", "bd3cli.data:Corpus", "bd3cli.data:DatasetInfo", underscores=True),
    Kind("tokenizer", "tokenizer", "register_tokenizers", "bd3cli.data:Tokenizer", underscores=True),
)
