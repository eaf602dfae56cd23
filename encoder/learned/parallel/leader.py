"""A training as rank 0 sees it: it begins the other ranks, and notices when one of them is lost."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # not marked as exported

from encoder.jobs import Crew, Room, WorkerLostError
from encoder.learned.parallel.group import RankGroup, RankTask, joined, opened_store
from encoder.learned.parallel.worker import train_rank
from encoder.learned.parallel.workers import TrainingWorkers
from encoder.learned.run import LearningDivergedError
from encoder.progress import LongStage
from store.artifact import new_id

LABEL = "learned block"
_LOOK_SECONDS = 0.1
_NOTICE_SECONDS = 15.0  # within which it is known that a worker has ended, once its connection is closed
_END_SECONDS = 10.0  # that the others have to end by themselves


@contextmanager
def leading(workers: TrainingWorkers, room: Room, task: RankTask) -> Iterator[RankGroup]:
    """Begin the other ranks of a training, and yield the group of all; they end with the block.

    Args:
        workers: who begins them.
        room: how many there are.
        task: what they have in common, but for the port.

    Raises:
        WorkerLostError: a rank was ended by somebody else, or does not answer.
        PartFailedError: a rank raised an error.
    """
    store, port = opened_store(room.address, room.processes)
    file = workers.folder / f"ranks-{new_id()}.json"
    replace(task, port=port).save(file)
    with workers.jobs.beside(partial(train_rank, file), room, LABEL) as crew:
        _wait_for(crew, store, room)
        with ExitStack() as stack:
            with _noticing(crew):
                group = stack.enter_context(joined(0, replace(task, port=port), store))
            with _noticing(crew):
                yield group
            crew.wait_for_all(_END_SECONDS)


def _wait_for(crew: Crew[str], store: Store, room: Room) -> None:
    """Wait until all ranks have read the data."""
    keys = [f"rank {rank}" for rank in range(1, room.processes)]
    with LongStage("workers that train", len(keys), "worker") as stage:
        for key in keys:
            while not store.check([key]):
                crew.wait_for_one(_LOOK_SECONDS)
                for number, reason in crew.results().items():
                    raise WorkerLostError(LABEL, number, reason)
            stage.advance()


@contextmanager
def _noticing(crew: Crew[str]) -> Iterator[None]:
    """Find out whether a rank is lost, where an error of torch comes up on this one.

    Raises:
        WorkerLostError, PartFailedError: as `leading`.
    """
    try:
        yield
    except LearningDivergedError:
        raise
    except RuntimeError as error:  # a connection is closed, nobody answers, or it is an error of this process
        _check(crew, error)
        raise


def _check(crew: Crew[str], error: RuntimeError) -> None:
    crew.wait_for_one(_NOTICE_SECONDS)
    for number, reason in crew.results().items():
        raise WorkerLostError(LABEL, number, reason) from error
    if isinstance(error, dist.DistError) or "gloo" in str(error):  # whose errors name its files
        raise WorkerLostError(LABEL, None, str(error)) from error
