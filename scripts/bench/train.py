"""How long training takes on many users, beside implicit's alternating least squares in the same run."""

import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from encoder.arrays import Actions, Events, TextColumns
from encoder.config import TowerConfig
from encoder.content import RawContent
from encoder.dataset import Dataset
from encoder.fit import TrainOptions, fit
from encoder.products import threads
from encoder.tower import fit_closed_form

log = logging.getLogger(__name__)

ALS_ITERATIONS = 15
_TOPICS = 200
_TASTES = (0.5, 0.25, 0.15, 0.1)  # shares of the topics that a user likes
_AT_RANDOM = 0.2  # share of the events that follow popularity alone
_VALID = 0.1
_PERIOD = 10**14  # microseconds, three years


@dataclass(frozen=True)
class TrainBenchOptions:
    """Size of the synthetic data, embedding dim and seed."""

    users: int
    items: int
    events: int
    dim: int
    seed: int = 0


def measure_training(options: TrainBenchOptions, folder: Path) -> dict[str, Any]:
    """Measure one fit of the closed form, the whole of a training, and implicit where it is installed.

    Seconds are wall-clock; the CPU seconds of all threads tell a busy machine from much work.

    Args:
        options: of the data.
        folder: for what training writes.
    """
    data = synthetic_dataset(options)
    log.info("bench train: %d visible events, %d threads", len(data.history.users), threads())
    config = TowerConfig(dim=options.dim)
    works: dict[str, Callable[[], object]] = {"one fit": lambda: fit_closed_form(data, config)}
    if find_spec("implicit") is None:
        log.info("implicit is not installed (pip install 'triptych[bench]'): left out")
    else:
        works["implicit"] = lambda: _fit_implicit(data, options)
    whole = TrainOptions(base=config, dims=(options.dim,), seed=options.seed)
    works["choice and fit"] = lambda: fit(data, whole, folder)
    results: list[dict[str, Any]] = [{"work": name, **_timed(work)} for name, work in works.items()]
    seconds = {row["work"]: row["seconds"] for row in results}
    beside = [name for name in ("one fit", "choice and fit") if "implicit" in seconds]
    return {
        "options": asdict(options) | {"threads": threads()},
        "results": results,
        "ratios": {f"{name} / implicit": seconds[name] / seconds["implicit"] for name in beside},
    }


def synthetic_dataset(options: TrainBenchOptions) -> Dataset:
    """Draw a data set whose settings matter: a few topics to a user, popularity by a power law, dated events.

    A tenth of the rows is held out as valid. There are no texts and no friends.
    """
    rng = np.random.default_rng(options.seed)
    users, items, events = options.users, options.items, options.events
    activity = rng.lognormal(0, 1, users)
    owners = np.sort(rng.choice(users, events, p=activity / activity.sum()))
    topics = min(_TOPICS, max(1, items // 20))
    liked = _drawn(rng, np.arange(1, topics + 1) ** -0.6, (users, len(_TASTES)))
    topic = liked[owners, _drawn(rng, np.array(_TASTES), (events,))]
    popularity = rng.permutation(np.arange(1, items + 1) ** -0.9)
    named = _drawn(rng, popularity, (events,))
    of_topic = rng.permutation(items) % topics
    by_taste = rng.random(events) >= _AT_RANDOM
    for each in range(topics):
        own, at = np.flatnonzero(of_topic == each), np.flatnonzero(by_taste & (topic == each))
        named[at] = own[_drawn(rng, popularity[own], (len(at),))]
    actions = Actions(np.zeros(events, dtype=np.int32), ("see",))
    rows = Events(owners, named, actions, np.ones(events), rng.integers(0, _PERIOD, events))
    valid = rng.random(events) < _VALID
    none = np.zeros(0, dtype=np.int64)
    return Dataset(
        users=pa.array([f"u{user:08}" for user in range(users)]),
        items=pa.array([f"i{item:08}" for item in range(items)]),
        history=rows.where(~valid),
        held_out={"valid": rows.where(valid)},
        ties=sparse.csr_array((users, users)),
        texts=TextColumns(none, none, none, np.zeros((0, 0), np.float32)),
        item_content=RawContent.of_texts([""] * items, np.zeros((items, 0), np.float32)),
    )


def _drawn(
    rng: np.random.Generator, weights: npt.NDArray[np.floating], shape: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Draw positions in `weights` by weight."""
    edges = np.cumsum(weights / weights.sum())
    places: npt.NDArray[np.int64] = np.minimum(np.searchsorted(edges, rng.random(shape)), len(weights) - 1)
    return places


def _fit_implicit(data: Dataset, options: TrainBenchOptions) -> None:
    """Fit implicit's alternating least squares.

    Source:
        https://github.com/benfred/implicit; Takács, Pilászy and Tikk 2011, "Applications of the conjugate
        gradient method for implicit feedback collaborative filtering", RecSys.
    """
    from implicit.als import AlternatingLeastSquares

    events = data.events(replace(TowerConfig(), weighting="log"))
    small = (events.data, events.indices.astype(np.int32), events.indptr.astype(np.int32))
    model = AlternatingLeastSquares(
        factors=options.dim, iterations=ALS_ITERATIONS, num_threads=threads(), random_state=options.seed
    )
    model.fit(sparse.csr_matrix(small, shape=events.shape), show_progress=False)


def _timed(work: Callable[[], object]) -> dict[str, float]:
    """Time a work: wall-clock seconds, CPU seconds, and the most memory of the process up to its end."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    unit = 1 if sys.platform == "darwin" else 1_024  # of ru_maxrss, in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": seconds, "cpu_seconds": used, "peak_gib": peak / 2**30}
