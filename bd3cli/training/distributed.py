"""Training in several processes started by torchrun: collective operations, and one leader that reports.

Everything here is torch.distributed; without it a `Group` of one does nothing and costs nothing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from bd3cli.errors import BD3Error, Followed, InputError, RunError
from bd3cli.faults import blaming_plugins
from bd3cli.model import Transformer

T = TypeVar("T")
FAILURES = "bd3cli/failures"


@dataclass(frozen=True)
class Group:
    """The processes that train together, as one of them sees it.

    Attributes:
        rank: which one this is; 0 leads: it alone writes files and prints.
        size: how many there are.
        local_rank: which one of those on this machine this is.
        local_size: how many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This process's rows of a batch of `total`, which `size` divides."""
        each = total // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, x: Tensor) -> Tensor:
        """`x` summed over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def largest(self, number: int) -> int:
        """The largest `number` of all processes. It travels between CPUs, so that no accelerator waits for it."""
        if self.size == 1:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def total(self, number: int) -> int:
        """The sum of every process's `number`, which travels between CPUs too."""
        if self.size == 1:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared)
        return int(shared)

    def rows_of_all(self, x: Tensor) -> Tensor:
        """From [N, b, ...] of each process's rows b of a batch, in order of rank, [N, B, ...] of all."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, 1)

    def gather(self, item: T) -> list[T]:
        """Every process's `item`, in order of rank."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def from_leader(self, item: T) -> T:
        """The leader's `item`."""
        if self.size == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items)
        return items[0]

    def device(self, device: torch.device) -> torch.device:
        """The accelerator of this process, where `device` names a kind of which each process takes one.

        Raises:
            InputError: fewer accelerators than processes.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        if str(device) != device.type or self.local_size > torch.cuda.device_count():
            raise InputError(
                f"{self.local_size} processes on this machine cannot share {device} "
                f"({torch.cuda.device_count()} GPUs). Use --device cuda, and at most one process a GPU."
            )
        own = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(own)
        return own


_joined: list[Group] = []  # the group this process is in, if it is in one


@contextmanager
def joined() -> Iterator[Group]:
    """Take part in the group that torchrun started, if one did; nested uses share it.

    When something fails, the process it failed in raises the error and the others `Followed`, so that the
    reason is told once.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if _joined or size == 1:
        yield _joined[0] if _joined else Group()
        return
    try:
        store, rank, size = next(iter(rendezvous("env://")))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"WORLD_SIZE is {size}, but the processes cannot meet: {_first_line(error)}. Start them with torchrun, "
            "or unset WORLD_SIZE."
        ) from error
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=rank, world_size=size)
    local_rank, local_size = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    group = Group(rank, size, local_rank, local_size or size)
    _joined.append(group)
    try:
        with blaming_plugins():
            yield group
    except Exception as error:
        raise _told_once(store, error) from error
    finally:
        _joined.clear()
        dist.destroy_process_group()


def _told_once(store: Any, error: Exception) -> Exception:
    """`error` where it came first; elsewhere its echo, which says nothing."""
    try:
        first = store.add(FAILURES, 1) == 1
    except RuntimeError:  # the store went down with its host, which has told of what both can see
        first = not isinstance(error, BD3Error)
    if not first:
        return Followed("Another process of this run failed and has told why.")
    if isinstance(error, BD3Error) or not isinstance(error, RuntimeError):
        return error
    lost = any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "peer"))
    if not lost:
        return error
    return RunError(
        f"Another process of this run is gone ({_first_line(error)}). The last checkpoint is intact: "
        "start all of them again with --resume."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def choose_parallel(name: str, group: Group) -> str:
    """``none``, ``ddp`` or ``fsdp`` for the recipe's ``train.parallel``.

    Raises:
        InputError: a way to work together was asked for, and there is one process.
    """
    if group.size == 1:
        if name != "auto":
            raise InputError(
                f"train.parallel is {name!r}, but this is a single process. "
                "Start it with torchrun --nproc-per-node N -m bd3cli ..., or leave train.parallel at 'auto'."
            )
        return "none"
    return "ddp" if name == "auto" else name


def parallelise(loss: nn.Module, model: Transformer, parallel: str, device: torch.device) -> nn.Module:
    """`loss`, a module around `model`, so that its gradients become the mean over processes."""
    if parallel == "ddp":
        ids = [device.index] if device.type == "cuda" else None
        with warnings.catch_warnings():  # newer torch has another name for `broadcast_buffers`
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(loss, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
    if parallel == "fsdp":
        shard(loss, model)
    return loss


def shard(module: nn.Module, model: Transformer) -> None:
    """FSDP2 for `module`, which is or holds `model`.

    The multilayer perceptrons, two thirds of a block's weights, are gathered one at a time and the others
    together, since only they are used through `forward` alone.
    """
    # a word of caution about in-place operations, of which there are none here
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    for block in model.layers:
        fully_shard(block.mlp)
    fully_shard(module)


def accumulating(loss: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Around a micro-batch: DDP talks once a step, after its `last`. FSDP2 keeps shards only and so talks each time."""
    return nullcontext() if last or not isinstance(loss, DistributedDataParallel) else loss.no_sync()


def whole(x: Tensor) -> Tensor:
    """A tensor that may be sharded, whole on every process."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def full_weights(module: nn.Module, *, to_leader: bool = False) -> dict[str, Tensor]:
    """All tensors of `module`, whole: on every process, or on the leader's CPU alone (elsewhere empty)."""
    if not any(isinstance(p, DTensor) for p in module.parameters()):
        return module.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=to_leader)
    return cast("dict[str, Tensor]", get_model_state_dict(module, options=options))


def full_optimizer_state(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """``optimizer.state_dict()``, whole: on every process, or where it is sharded on the leader's CPU alone."""
    state = optimizer.state_dict()
    if not any(isinstance(p, DTensor) for p in module.parameters()):
        return state
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    named = get_optimizer_state_dict(module, optimizer, options=options)
    found = cast("dict[str, Any]", named.get("state", {}))
    numbered = {i: found[name] for i, (name, _) in enumerate(module.named_parameters()) if name in found}
    return {**state, "state": numbered}


def spread_weights(group: Group, module: nn.Module, weights: dict[str, Any]) -> None:
    """Put the leader's whole `weights` into `module` on every process, sharded as it is."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=group.size > 1)
    set_model_state_dict(module, weights, options=options)


def spread_optimizer_state(group: Group, module: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Put the leader's whole ``optimizer.state_dict()`` into `optimizer` on every process, sharded as it is."""
    if group.size == 1:
        optimizer.load_state_dict(state)
        return
    named: dict[str, Any] = {}
    if group.leads:
        names = [name for name, _ in module.named_parameters()]
        groups = [{**g, "params": [names[i] for i in g["params"]]} for g in state["param_groups"]]
        named = {"state": {names[i]: s for i, s in state["state"].items()}, "param_groups": groups}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(module, optimizer, named, options=options)
