"""The report of `triptych evaluate`: every figure of DESIGN section 5 for one published pair."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from encoder.config import VIEWS
from encoder.dataset import load_dataset
from encoder.heads.model import FrozenVectors, head_report
from encoder.jobs import IN_PROCESS, Jobs
from encoder.left_out import LeftOutIds
from encoder.text import TextCache, TextEncoder
from indexer.publish import LoadedIndex
from scripts.evaluate.amounts import amount_figures
from scripts.evaluate.baselines import baseline_figures
from scripts.evaluate.diversity import diversity_figures
from scripts.evaluate.new_items import new_item_figures
from scripts.evaluate.protocol import SUBSETS, Evaluator
from scripts.evaluate.robustness import robustness_figures
from scripts.training import head_rows
from store.export import Export
from store.home import Home


def evaluate(
    home: Home,
    pair: LoadedIndex,
    split: str,
    views: tuple[str, ...],
    *,
    baselines: bool,
    exact: bool,
    robustness: bool = False,
    diversity: float | None = None,
    jobs: Jobs = IN_PROCESS,
) -> dict[str, Any]:
    """Return the report of DESIGN section 5 as JSON values; `robustness` and `diversity` add a block.

    `diversity` is the λ of maximal marginal relevance; `jobs` fit the baselines.
    """
    seconds: dict[str, float] = {}
    with timed_stage(seconds, "load"):
        with _sources(home, pair) as (export, encoder, cache):
            data = load_dataset(export, encoder, cache)
        left_out = LeftOutIds.load(home.models / pair.model.model_id).rows(data)
        known = data.without_items(left_out.items)
        evaluator = Evaluator(known, pair, split, exact, whole=data)
        unseen = left_out.users[evaluator.users]
    with timed_stage(seconds, "rank"):
        main = evaluator.rank(views)
    with timed_stage(seconds, "views"):
        by_view = {subset: evaluator.subset_figures(subset, ~unseen) for subset in SUBSETS}
        for subset, figures in by_view.items():
            if figures is not None:  # what all views gain over this subset
                alone = evaluator.rank(tuple(subset))
                figures["gain"] = dict(evaluator.gain(evaluator.rank(VIEWS), alone, ~unseen))
        cold = evaluator.subset_figures("TS", ~unseen)
    with timed_stage(seconds, "amounts"):
        by_amount = amount_figures(evaluator, ~unseen)
    report: dict[str, Any] = {
        "dataset": home.path.resolve().name,
        "split": split,
        "model_id": pair.model.model_id,
        "index_id": pair.index.index_id,
        "users": int((~unseen).sum()),
        "views": "".join(views),
        "views_in_data": evaluator.present,
        "k": evaluator.metrics(main, ~unseen),
        "by_view": by_view,
        "cold_users": cold,
        **by_amount,
        "unseen_users": {"users": int(unseen.sum()), **evaluator.metrics(main, unseen)}
        if unseen.any()
        else None,
        "new_items": None,
        "matching_degree": matching_degree(evaluator),
        "baselines": {},
    }
    if left_out.items.any():
        with timed_stage(seconds, "new items"):
            report["new_items"] = new_item_figures(evaluator, data, left_out)
    if baselines:
        with timed_stage(seconds, "baselines"):
            report["baselines"] = baseline_figures(
                evaluator, known.without_users(left_out.users), main, ~unseen, home, jobs
            )
    if pair.model.heads:
        with timed_stage(seconds, "heads"):
            report["heads"] = _head_figures(home, evaluator)
    if robustness:
        with timed_stage(seconds, "robustness"):
            report["robustness"] = robustness_figures(evaluator, views, ~unseen)
    if diversity is not None:
        with timed_stage(seconds, "diversity"):
            report["diversity"] = diversity_figures(evaluator, views, ~unseen, diversity)
    return report | {"seconds": seconds}


def _head_figures(home: Home, evaluator: Evaluator) -> dict[str, Any]:
    """Return the figures of the model's heads by task, on the vectors of the exported graphs."""
    model, data = evaluator.pair.model, evaluator.data
    vectors = FrozenVectors.of_model(model, data)
    with Export.open(home.exports / model.export_id, verify=False) as export:  # it was, when it was loaded
        rows = head_rows(export, data)
    return {task: head_report(head, rows, evaluator.split, vectors) for task, head in model.heads.items()}


def matching_degree(evaluator: Evaluator) -> dict[str, float | None]:
    """Return the mean of M(V_u, V_ui) = <V_u, W_i V_ui> over the users with view i; null without any."""
    model, batch = evaluator.pair.model, evaluator.views
    vectors = model.encode_users(batch).vectors
    degrees: dict[str, float | None] = {}
    for i, view in enumerate(VIEWS):
        present = batch.amounts[:, i] > 0
        alone = model.encode_users(batch.only((view,))).vectors  # its gate is 1: W_i V_ui itself
        inner = np.einsum("bd,bd->b", alone[present], vectors[present])
        degrees[view] = float(inner.mean()) if present.any() else None
    return degrees


@contextmanager
def _sources(home: Home, pair: LoadedIndex) -> Iterator[tuple[Export, TextEncoder, TextCache]]:
    """Yield the export that the model was trained on, its text model and the cache of encoded texts."""
    encoder = TextEncoder.load(home.text_models / pair.model.text_model_id)
    with (
        Export.open(home.exports / pair.model.export_id) as export,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        yield export, encoder, cache


@contextmanager
def timed_stage(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Store the seconds that the block takes in `seconds`, by the name of a stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
