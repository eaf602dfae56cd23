"""How long an epoch of a learned block takes in one process, and in several that train it together."""

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.jobs import open_jobs
from encoder.learned import LearnConfig
from encoder.learned.parallel import TrainingWorkers
from encoder.learned.trainer import train_block
from scripts.bench.train import TrainBenchOptions, synthetic_dataset

log = logging.getLogger(__name__)


def measure_learning(
    options: TrainBenchOptions, counts: Sequence[int], epochs: int, negatives: int, folder: Path
) -> dict[str, Any]:
    """Measure the seconds of an epoch, once the first is over, by the number of processes.

    Args:
        options: of the data; its dim is that of the block.
        counts: numbers of processes, in the order in which they are measured.
        epochs: after the first; their median counts.
        negatives: items drawn per step; 0 ranks all up to FULL_SOFTMAX_ITEMS.
        folder: for what training writes.
    """
    data = synthetic_dataset(options)
    learn = LearnConfig(dim=options.dim, epochs=1 + epochs, negatives=negatives, seed=options.seed)
    results = []
    for turn, count in enumerate(counts):
        first, others = _seconds(data, learn, count, folder / str(turn))
        log.info("bench learn: %d processes, %.2f s an epoch", count, statistics.median(others))
        results.append(
            {"processes": count, "seconds_per_epoch": statistics.median(others), "first_epoch": first}
        )
    users = int((np.diff(data.seen.indptr) > 0).sum())
    return {
        "options": asdict(options) | {"epochs": epochs, "negatives": negatives},
        "batch": learn.for_users(users).batch,
        # Both tables, as float32: what each step adds up among the processes, but for small parameters.
        "gradient_mib": 2 * len(data.items) * options.dim * 4 / 2**20,
        "results": results,
        "ratios": {
            f"{row['processes']} processes / {results[0]['processes']}": row["seconds_per_epoch"]
            / results[0]["seconds_per_epoch"]
            for row in results[1:]
        },
    }


def _seconds(data: Dataset, learn: LearnConfig, count: int, folder: Path) -> tuple[float, list[float]]:
    """Return the seconds of the first epoch, with all that begins, and of each of the others."""
    (folder / "shared").mkdir(parents=True)
    times = [time.perf_counter()]
    with open_jobs(count) as jobs:
        workers = None if jobs.in_this_process else TrainingWorkers(jobs, folder / "shared")
        train_block(
            data,
            TowerConfig(),
            learn,
            None,
            folder,
            lambda *_: times.append(time.perf_counter()),
            workers=workers,
        )
    first, *others = np.diff(times).tolist()
    return first, others
