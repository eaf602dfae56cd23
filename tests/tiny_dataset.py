"""A data set of a few users, small enough to check a step of training by hand."""

import numpy as np
import pyarrow as pa
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events, TextColumns
from encoder.config import TowerConfig
from encoder.content import RawContent
from encoder.dataset import Dataset

CONFIG = TowerConfig(weighting="binary")
USERS, ITEMS = 24, 30


def dataset(*, dated: bool, times: int = 200, seed: int = 0) -> Dataset:
    """Friends 2i and 2i+1 did the same things at the same times and wrote one text on each."""
    rng = np.random.default_rng(seed)
    users, items, ts = [], [], []
    for pair in range(USERS // 2):
        for item in rng.choice(ITEMS, 8, replace=False):
            when = int(rng.integers(times))
            for user in (2 * pair, 2 * pair + 1):
                users.append(user)
                items.append(item)
                ts.append(when if dated else NO_TIME)
    owner, item, when = (np.array(column, dtype=np.int64) for column in (users, items, ts))
    events = Events(owner, item, Actions.of(["see"] * len(owner)), np.ones(len(owner)), when)
    ties = np.zeros((USERS, USERS))
    for user in range(USERS):
        ties[user, user ^ 1] = 2.0
    vectors = np.eye(len(owner), dtype=np.float32)  # a text is known by its coordinate
    return Dataset(
        users=pa.array([f"u{i:02}" for i in range(USERS)]),
        items=pa.array([f"i{i:02}" for i in range(ITEMS)]),
        history=events,
        held_out={},
        ties=sparse.csr_array(ties),
        texts=TextColumns(owner, item if not dated else np.full(len(owner), -1), when, vectors),
        item_content=RawContent.of_texts([""] * ITEMS, np.zeros((ITEMS, len(owner)), dtype=np.float32)),
    )
