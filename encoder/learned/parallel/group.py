"""The exchange between the ranks of a training: gradients and losses are added, checks are made known."""

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroupGloo, Store, TCPStore  # type: ignore[attr-defined]  # not marked so
from torch.nn.parallel import DistributedDataParallel

from encoder.training_loop import Progress

JOIN_SECONDS = 60.0  # that a rank needs to reach the others, at most
STEP_SECONDS = 60.0  # that a rank waits for the others within a step, at most
_CHECK_DAYS = 7.0  # that a rank waits for a check, which takes as long as scoring does
_GLOO = "gloo_at_address"
_NCCL = "nccl"


@dataclass(frozen=True)
class RankTask:
    """What the ranks of a training have in common; workers read it from a file.

    Attributes:
        address, port: where rank 0 is reached.
        ranks: how many there are.
        threads: of each rank.
        with_cards: whether each rank computes on a graphics card.
        data: the folder of the data set.
        checkpoints: the folder of the training.
        config, options: settings as JSON values, of the tower and of the block.
        scored: whether rank 0 judges the block on held-out rows.
    """

    address: str
    port: int
    ranks: int
    threads: int
    with_cards: bool
    data: str
    checkpoints: str
    config: dict[str, Any]
    options: dict[str, Any]
    scored: bool

    def save(self, path: Path) -> None:
        """Write the task to a file."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def load(cls, path: Path) -> "RankTask":
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text("utf-8")))


class OtherCheckpointError(RuntimeError):
    """A rank would go on from another epoch than rank 0."""

    def __init__(self, rank: int, found: int, wanted: int, folder: str) -> None:
        super().__init__(
            f"rank {rank} finds a checkpoint of epoch {found} in {folder}, and rank 0 one of epoch {wanted}: "
            "every machine has to see the home at the same path"
        )
        self.found = found


class RankGroup:
    """The ranks of a training, as one of them sees them.

    Attributes:
        rank: of this process.
        ranks: how many there are.
        store: what they tell each other by name.
    """

    def __init__(self, rank: int, ranks: int, store: Store) -> None:
        self.rank, self.ranks, self.store = rank, ranks, store

    @property
    def part(self) -> slice:
        """The users of a step that this rank has."""
        return slice(self.rank, None, self.ranks)

    def adding(self, loss: nn.Module) -> Callable[..., Tensor]:
        """Return a function that computes the loss of a whole step from those of its parts.

        Its backward pass adds the gradients of all ranks up, so that all have that of the whole. A parameter
        that no rank used keeps no gradient. All ranks take over the weights of rank 0.

        Args:
            loss: a module that returns the loss of the part of a step that this rank has, a scalar.
        """
        parallel = DistributedDataParallel(loss, find_unused_parameters=True, forward_sync_buffers=False)

        def whole(*part: object) -> Tensor:
            mine: Tensor = parallel(*part)
            total = mine.detach().clone()
            dist.all_reduce(total)
            mine = mine * self.ranks  # because the mean of the gradients is taken
            return total + (mine - mine.detach())  # the value of the whole, with the gradient of this part

        return whole

    def tell_progress(self, progress: Progress) -> None:
        """Tell the other ranks from which progress rank 0 goes on."""
        self.store.set("progress", json.dumps(asdict(progress)))

    def progress(self) -> Progress:
        """Return the progress that rank 0 goes on from."""
        return Progress(**json.loads(self.store.get("progress")))

    def tell_check(self, epoch: int, loss: float) -> None:
        """Tell the other ranks that rank 0 has ended the check after an epoch, and its held-out loss."""
        self.store.set(f"check of epoch {epoch}", repr(loss))

    def check(self, epoch: int) -> float:
        """Wait until rank 0 has ended the check after an epoch, and return its held-out loss."""
        key = f"check of epoch {epoch}"
        self.store.wait([key], timedelta(days=_CHECK_DAYS))
        return float(self.store.get(key))


def opened_store(address: str, ranks: int) -> tuple[TCPStore, int]:
    """Return the store of rank 0, which listens at one address, and its port."""
    listener = socket.create_server((address, 0))
    port: int = listener.getsockname()[1]
    # By itself it would listen at every address of this machine.
    return _store(address, port, ranks, is_master=True, master_listen_fd=listener.detach()), port


def found_store(task: RankTask) -> TCPStore:
    """Return the store of rank 0 as another rank reaches it."""
    return _store(task.address, task.port, task.ranks, is_master=False)


def _store(address: str, port: int, ranks: int, **how: Any) -> TCPStore:
    timeout = timedelta(seconds=JOIN_SECONDS)
    return TCPStore(address, port, ranks, timeout=timeout, wait_for_workers=False, **how)


@contextmanager
def joined(rank: int, task: RankTask, store: Store) -> Iterator[RankGroup]:
    """Yield the group of a training, which every rank joins, and leave it afterwards."""
    if not hasattr(dist.Backend, _GLOO.upper()):
        dist.Backend.register_backend(_GLOO, _gloo, extended_api=True, devices=["cpu"])
    threads, hook = torch.get_num_threads(), sys.excepthook
    torch.set_num_threads(task.threads)
    try:
        dist.init_process_group(
            _NCCL if task.with_cards else _GLOO,
            store=store,
            rank=rank,
            world_size=task.ranks,
            timeout=timedelta(seconds=STEP_SECONDS),
            pg_options=None if task.with_cards else _address_towards(task),
        )
        try:
            yield RankGroup(rank, task.ranks, store)
        finally:
            dist.destroy_process_group()
    finally:
        sys.excepthook = hook  # torch puts the rank before every line of an error
        torch.set_num_threads(threads)


def _address_towards(task: RankTask) -> str:
    """Return the address of this machine on the network that rank 0 is on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((task.address, task.port))  # sends nothing, but chooses the interface
        address: str = way.getsockname()[0]
        return address


def _gloo(group: Any, address: str) -> Any:
    """Make a gloo backend that listens at one address: by itself it takes that of the machine's name."""
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # so it is called
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = group.timeout
    return ProcessGroupGloo(group.store, group.group_rank, group.group_size, options)
