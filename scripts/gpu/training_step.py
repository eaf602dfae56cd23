"""Training of a learned block, on the card where torch sees one."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder.config import TowerConfig
from encoder.learned import LearnConfig
from encoder.learned.trainer import train_block
from scripts.bench.train import TrainBenchOptions, synthetic_dataset

USERS, ITEMS, EVENTS = 20_000, 20_000, 400_000
_CARD_EPOCHS, _CPU_EPOCHS = 6, 2  # after the first, which also starts the card


def measure_training_speed(users: int = USERS, items: int = ITEMS, events: int = EVENTS) -> dict[str, Any]:
    """Return the seconds of an epoch of a learned block of dim 256; the first one is told apart."""
    card = torch.cuda.is_available()
    data = synthetic_dataset(TrainBenchOptions(users, items, events, dim=128))
    options = LearnConfig(epochs=1 + (_CARD_EPOCHS if card else _CPU_EPOCHS))
    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as name:
        train_block(
            data, TowerConfig(), options, None, Path(name), lambda *_: times.append(time.perf_counter())
        )
    first, *others = np.diff(times).tolist()
    return {
        "users": users,
        "items": items,
        "events": events,
        "on": "card" if card else "CPU",
        "seconds_per_epoch": statistics.median(others),
        "first_epoch": first,
    }
