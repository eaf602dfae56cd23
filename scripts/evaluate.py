"""triptych evaluate: recall and company on held-out rows, as JSON and a table."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from encoder.config import parse_views
from encoder.dataset import load_dataset, rows_of
from encoder.runtime import LEFT_OUT_FILE
from encoder.text import TextEncoder
from encoder.text_cache import TextCache
from indexer.publish import Pair, current_index, load_pair
from scripts.baselines import baseline_figures
from scripts.evaluate_table import write_tables
from scripts.evaluating import SUBSETS, Evaluator
from scripts.session import HomeOption, JsonOption, existing
from store.export import Export
from store.home import Home


class Split(StrEnum):
    """What `--split` takes."""

    VALID = "valid"
    TEST = "test"


def evaluate_command(
    home: HomeOption,
    split: Annotated[Split, typer.Option(help="Which held-out rows; choose models on valid.")] = Split.TEST,
    json_path: JsonOption = None,
    views: Annotated[str, typer.Option(help="Views that the main figures use, e.g. H,T.")] = "H,T,S",
    baselines: Annotated[bool, typer.Option("--baselines", help="Also popularity and EASE.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Rank by brute force instead of the index.")] = False,
    index: Annotated[str | None, typer.Option(help="An index id; default: CURRENT.")] = None,
) -> None:
    """Rank all items for every user with held-out rows, through the exported graphs and the index.

    Example: triptych evaluate --home demo --split test --json report.json --baselines
    """
    place, chosen = existing(home), parse_views(views)
    pair = load_pair(place, index or current_index(place).name)
    report = evaluate(place, pair, split.value, chosen, baselines=baselines, exact=exact)
    place.reports.mkdir(parents=True, exist_ok=True)
    name = place.reports / f"evaluate-{split.value}-{pair.index.index_id}"
    for path in [name.with_suffix(".json"), *([json_path] if json_path else [])]:
        path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    write_tables(report, name.with_suffix(".html"))


def evaluate(
    home: Home, pair: Pair, split: str, views: tuple[str, ...], *, baselines: bool, exact: bool
) -> dict[str, Any]:
    """Return the report of DESIGN section 5 as JSON values."""
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        encoder = TextEncoder.load(home.text_models / pair.model.text_model_id)
        with Export.open(home.exports / pair.model.export_id) as export:
            data = load_dataset(export, encoder, TextCache.open(home.text_cache))
        left_out = pq.read_table(home.models / pair.model.model_id / LEFT_OUT_FILE).column("user_id")
        evaluator = Evaluator(data, pair, split, exact)
        unseen = np.isin(evaluator.users, rows_of(left_out, data.users))
    with timed(seconds, "rank"):
        main = evaluator.rank(views, "all views")
    with timed(seconds, "views"):
        by_view = {subset: evaluator.subset_figures(subset, ~unseen) for subset in SUBSETS}
        cold = evaluator.subset_figures("TS", ~unseen)
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
        "unseen_users": {"users": int(unseen.sum()), **evaluator.metrics(main, unseen)}
        if unseen.any()
        else None,
        "matching_degree": evaluator.matching_degree(),
        "baselines": {},
    }
    if baselines:
        with timed(seconds, "baselines"):
            report["baselines"] = baseline_figures(evaluator)
    return report | {"seconds": seconds}


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Write the seconds that the block takes under the name of a stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
