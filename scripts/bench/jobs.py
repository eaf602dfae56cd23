"""Batch work in this process, in processes of this machine and on a Ray cluster of it, by turns."""

import hashlib
import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from encoder.config import TowerConfig
from encoder.dataset import Dataset, load_dataset
from encoder.jobs import Jobs, open_jobs, shared_folder
from encoder.products import threads
from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder, cache_in_parts, encode_with_cache
from evaluation.split import VALID, mark
from indexer.files import VECTORS_FILE
from indexer.reindex import IndexSpec, reindex
from scripts.bench.ray_cluster import ray_cluster
from scripts.tune.study import Tuning
from scripts.tune.trials import Search, run_trials
from scripts.world.sentences import english_post, topics
from store.artifact import read_manifest, read_pointer
from store.export import Export
from store.home import Home

log = logging.getLogger(__name__)

ALONE, PROCESSES, RAY = "this process", "processes", "Ray"
WAYS = (ALONE, PROCESSES, RAY)
CLUSTER = "start of the cluster"
_VALID_SHARE = 0.1


class DifferentResultsError(RuntimeError):
    """Two ways to do the same work came to different results."""

    def __init__(self, work: str, found: dict[str, str]) -> None:
        super().__init__(
            f"{work}: {found}: processes and Ray must come to the same, so these figures compare nothing"
        )
        self.work, self.found = work, found


@dataclass(frozen=True)
class JobsBenchOptions:
    """What is worked on, and by how many.

    Attributes:
        jobs: processes of this machine, and processors of the cluster.
        parts: that do nothing: what giving out a part takes.
        texts: different ones, each a sentence, which are encoded.
        trials: settings of the closed form that are tried, `jobs` of them at once.
        rounds: medians are taken over these.
        seed: of the texts and of the draws.
        ray: whether the cluster is measured, too.
    """

    jobs: int = 2
    parts: int = 1_000
    texts: int = 4_096
    trials: int = 6
    rounds: int = 3
    seed: int = 0
    ray: bool = True

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways to work that are measured."""
        return WAYS if self.ray else WAYS[:2]


@dataclass(frozen=True)
class _Taken:
    """What a work took, of the wall clock and of all processors, and what came out, as a digest."""

    seconds: float
    cpu_seconds: float
    result: str = ""


def measure_jobs(home: Home, folder: Path, options: JobsBenchOptions) -> dict[str, Any]:
    """Return what each work took each way, and the ratios of the ways.

    Every work opens its workers anew, as a command does: connecting, processes that start and the modules
    that they load count. The cluster is started before its turn, and that is told apart. Processor seconds
    are those of this process and of all that it started, of the cluster's own processes, too.

    Args:
        home: with a model and its export, all of whose texts are cached; indexes that are built are removed.
        folder: for the caches and studies of the turns.
        options: what is worked on.

    Raises:
        RayMissingError: Ray is not installed.
        DifferentResultsError: processes and the cluster came to different results.
    """
    taken: dict[tuple[str, str], list[_Taken]] = {}
    ways = options.ways
    with _works(home, folder, options) as works:
        for turn in range(options.rounds):
            for way in (*ways[turn % len(ways) :], *ways[: turn % len(ways)]):
                with ExitStack() as stack:
                    address = None
                    if way == RAY:
                        address, start = _started(stack, options.jobs)
                        taken.setdefault((CLUSTER, RAY), []).append(start)
                    for name, work in works.items():
                        one = _measured(work, 1 if way == ALONE else options.jobs, address)
                        taken.setdefault((name, way), []).append(one)
                        log.info("bench jobs: %s, %s: %.1f s", name, way, one.seconds)
        for name in works:
            _check_results(name, {way: taken[name, way] for way in ways if way != ALONE})
    return {
        "options": asdict(options) | {"threads": threads()},
        "results": [_row(*key, some) for key, some in taken.items()],
        "ratios": _ratios(list(works), taken, ray=options.ray),
    }


def _started(stack: ExitStack, processors: int) -> tuple[str, _Taken]:
    """Start a cluster of one machine; return its address, and what that took."""
    began, cpu = time.monotonic(), _cpu_seconds()
    address = stack.enter_context(ray_cluster(processors=processors))
    return address, _Taken(time.monotonic() - began, _cpu_seconds() - cpu)


def _measured(work: Callable[[Jobs], str], count: int, address: str | None) -> _Taken:
    """Open workers, have them do a work, and end them; return what that took."""
    began, cpu = time.monotonic(), _cpu_seconds()
    with open_jobs(count, address) as jobs:
        result = work(jobs)
        used = _cpu_seconds() - cpu  # while the workers are there, for Ray does not wait for its own to end
    return _Taken(time.monotonic() - began, used, result)


def _cpu_seconds() -> float:
    """Return the processor seconds of this process and all below it, those that it saw end included."""
    this = psutil.Process()
    return sum(_cpu_seconds_of(one) for one in (this, *this.children(recursive=True)))


def _cpu_seconds_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@contextmanager
def _works(home: Home, folder: Path, options: JobsBenchOptions) -> Iterator[dict[str, Callable[[Jobs], str]]]:
    """Yield what is measured, by name: each takes workers and returns a digest of what came out."""
    model = Model.load(read_pointer(home.latest_model, home.models))
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    with Export.latest(home.exports) as export, closing(TextCache.open(home.text_cache)) as cache:
        data = _with_valid(load_dataset(export, encoder, cache), options.seed)
        texts = _texts(options.texts, options.seed)
        numbers = iter(range(1_000_000))  # of new files below the folder
        yield {
            "a part": lambda jobs: _empty_parts(jobs, 1),
            f"{options.parts} parts": lambda jobs: _empty_parts(jobs, options.parts),
            "texts": lambda jobs: _encode(jobs, texts, encoder, home, folder / str(next(numbers))),
            "reindex": lambda jobs: _reindex(jobs, home, export, model, encoder, cache),
            "tune": lambda jobs: _tune(jobs, data, home, folder / str(next(numbers)), options),
        }


def same_number(number: int) -> int:
    """Return a number, on a worker."""
    return number


def _empty_parts(jobs: Jobs, count: int) -> str:
    return str(sum(jobs.map(same_number, range(count), "empty parts")))


def _encode(jobs: Jobs, texts: list[str], encoder: TextEncoder, home: Home, folder: Path) -> str:
    """Encode texts as `train` and `reindex` do, into an empty cache."""
    with closing(TextCache.open(folder)) as cache:
        if jobs.in_this_process:
            encode_with_cache(encoder, cache, texts, "texts")
        else:
            with shared_folder(home) as shared:
                cache_in_parts(encoder, cache, [texts], len(texts), "texts", jobs, shared)
        vectors, found = cache.get(encoder.text_model_id, texts, encoder.dim)
    if not found.all():
        raise LookupError(f"{int((~found).sum())} of {len(texts)} texts were not encoded")
    return hashlib.sha256(vectors.tobytes()).hexdigest()


def _reindex(
    jobs: Jobs, home: Home, export: Export, model: Model, encoder: TextEncoder, cache: TextCache
) -> str:
    """Build an index from nothing, remove it, and return a digest of the vectors of its items and people."""
    directory = reindex(home, export, model, encoder, cache, IndexSpec(full=True), jobs)
    files: dict[str, str] = read_manifest(directory)["files"]
    shutil.rmtree(directory)
    return _digest({name: found for name, found in files.items() if name.endswith(VECTORS_FILE)})


def _tune(jobs: Jobs, data: Dataset, home: Home, folder: Path, options: JobsBenchOptions) -> str:
    """Run a new search of settings of the closed form; return a digest of those it chose."""
    search = Search(TowerConfig().as_json(), False, str(folder / "training"), None, options.seed)
    objective, first = search.begin(data, None)
    tuning = Tuning(folder / "tune.db", "bench")
    for params in first:
        tuning.enqueue(params)
    limits = {"trials": options.trials, "seed": options.seed, "together": options.jobs}
    run_trials(tuning, objective, home, jobs, data, search, timeout=None, **limits)
    return _digest(tuning.best)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _with_valid(data: Dataset, seed: int) -> Dataset:
    """Hold a tenth of the visible rows out as valid, for a search to choose by."""
    rows = data.history
    labels = mark("random", rows.users, rows.items, rows.ts, valid=_VALID_SHARE, test=0.0, seed=seed)
    held_out = {"valid": rows.where(labels == VALID)}
    return replace(data, history=rows.where(labels != VALID), held_out=held_out)


def _texts(count: int, seed: int) -> list[str]:
    """Return different sentences."""
    known, generator = topics(), np.random.default_rng(seed)
    said = []
    for number in range(count):
        topic = known[number % len(known)]
        draw = generator.integers(1 << 30, size=6).tolist()
        said.append(f"{english_post(topic, number % len(topic.facets), draw)} {number}")
    return said


def _check_results(work: str, taken: dict[str, list[_Taken]]) -> None:
    """Check that all turns of some ways came to the same.  Raises: DifferentResultsError."""
    found = {way: ", ".join(sorted({one.result[:12] for one in some})) for way, some in taken.items()}
    if len({one.result for some in taken.values() for one in some}) > 1:
        raise DifferentResultsError(work, found)


def _row(work: str, way: str, taken: list[_Taken]) -> dict[str, Any]:
    return {
        "work": work,
        "way": way,
        "seconds": statistics.median(one.seconds for one in taken),
        "cpu_seconds": statistics.median(one.cpu_seconds for one in taken),
        "result": taken[0].result[:8],
    }


def _ratios(works: list[str], taken: dict[tuple[str, str], list[_Taken]], *, ray: bool) -> dict[str, float]:
    """Return, for each work, one way over another: the median of the rounds, each with its own turns."""

    def over(work: str, way: str, other: str, of: Callable[[_Taken], float]) -> float:
        turns = zip(taken[work, way], taken[work, other], strict=True)
        return statistics.median(of(one) / of(beside) for one, beside in turns)

    ratios = {}
    for work in works:
        ratios[f"{work}/processes_over_this_process"] = over(work, PROCESSES, ALONE, _seconds)
        if ray:
            ratios[f"{work}/ray_over_processes"] = over(work, RAY, PROCESSES, _seconds)
            ratios[f"{work}/ray_over_processes_cpu"] = over(work, RAY, PROCESSES, _cpu)
    return ratios


def _seconds(taken: _Taken) -> float:
    return taken.seconds


def _cpu(taken: _Taken) -> float:
    return taken.cpu_seconds
