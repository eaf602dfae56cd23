"""A training as all ranks but the first see it: the same steps, and no checks of their own."""

from pathlib import Path

import torch

from encoder.config import TowerConfig
from encoder.dataset_files import read_dataset
from encoder.jobs import check_shared
from encoder.learned.config import LearnConfig
from encoder.learned.parallel.group import OtherCheckpointError, RankGroup, RankTask, found_store, joined
from encoder.learned.run import LearningDivergedError, TrainingRun
from encoder.training_loop import train_epochs


class NoCardHereError(RuntimeError):
    """A rank is to compute on a graphics card, and sees none."""

    def __init__(self, rank: int) -> None:
        super().__init__(f"rank {rank} sees no graphics card, and rank 0 has one: leave --jobs and --ray out")


def train_rank(file: Path, rank: int) -> str:
    """Train a block as one of several ranks, until rank 0 has what it wants.

    Args:
        file: the task.
        rank: from 1 on.

    Returns:
        Why the others were lost; "" where the training is over.

    Raises:
        NotSharedError: this machine does not see the folder of the task.
        NoCardHereError: every rank is to have a card, and this one has none.
        OtherCheckpointError: the checkpoint here is not the one that rank 0 found.
        LearningDivergedError: the loss is infinite or no number.
    """
    check_shared(file.parent)
    task = RankTask.load(file)
    run = TrainingRun(
        read_dataset(Path(task.data)),
        TowerConfig.from_json(task.config),
        LearnConfig.from_json(task.options),
        Path(task.checkpoints),
        _device(task, rank),
    )
    store = found_store(task)
    store.set(f"rank {rank}", "ready")
    try:
        with joined(rank, task, store) as group:
            _train(run, group, task)
    except (LearningDivergedError, OtherCheckpointError):
        raise
    except RuntimeError as error:  # of torch: a connection is closed, or nobody answers
        return f"{type(error).__name__}: {error}"
    return ""


def _train(run: TrainingRun, group: RankGroup, task: RankTask) -> None:
    wanted = group.progress()
    if wanted.epoch != run.progress.epoch:
        raise OtherCheckpointError(group.rank, run.progress.epoch, wanted.epoch, task.checkpoints)
    run.progress = wanted
    run.join(group)
    training = run.training(
        held_out=(lambda: group.check(run.progress.epoch)) if task.scored else None,
        after_check=lambda progress: group.check(progress.epoch),
    )
    train_epochs(training, run.progress)


def _device(task: RankTask, rank: int) -> torch.device:
    """Return the card of a rank, of those that it sees, or the CPU."""
    if not task.with_cards:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise NoCardHereError(rank)
    return torch.device("cuda", rank % torch.cuda.device_count())
