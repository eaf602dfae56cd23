"""triptych evaluate: recall, NDCG and other figures on held-out rows, as JSON and tables."""

import logging
from enum import StrEnum
from typing import Annotated

import typer

from scripts.artifacts import CacheOption, PlaceOption, working_home
from scripts.terminal import JobsOption, JsonOption, RayOption, workers
from store.objects import CURRENT, in_object_storage

log = logging.getLogger(__name__)


class SplitOption(StrEnum):
    """What `--split` takes."""

    VALID = "valid"
    TEST = "test"


def evaluate_command(
    home: PlaceOption,
    split: Annotated[
        SplitOption, typer.Option(help="Which held-out rows; choose models on valid.")
    ] = SplitOption.TEST,
    json_path: JsonOption = None,
    views: Annotated[str, typer.Option(help="Views that the main figures use, e.g. H,T.")] = "H,T,S",
    baselines: Annotated[bool, typer.Option("--baselines", help="Also what others would get.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Rank by brute force instead of the index.")] = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also with parts of each view removed or made noise.")
    ] = False,
    diversity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Also reordered by maximal marginal relevance with this lambda."),
    ] = None,
    index: Annotated[str | None, typer.Option(help="An index id; default: CURRENT.")] = None,
    cache: CacheOption = None,
    jobs: JobsOption = "1",
    ray: RayOption = None,
) -> None:
    """Measure recall on held-out rows.

    Ranks all items for every user with held-out rows, through the exported graphs and the index; some users
    also with histories, texts or friends cut to a few. The home keeps the newest 100 reports. With --jobs or
    --ray each worker chooses and fits a baseline at a time.

    Example: triptych evaluate --home demo --split test --json report.json --baselines
    """
    from encoder.config import UnknownViewError, parse_views
    from evaluation.baselines import LibraryMissingError, require_library
    from indexer.publish import load_index
    from scripts.evaluate.page import page_html
    from scripts.evaluate.report import evaluate
    from scripts.evaluate.tables import print_tables
    from store.reports import PAGE_FILE, REPORT_FILE, keep_report, report_text

    try:
        chosen = parse_views(views)
    except UnknownViewError as error:
        raise typer.BadParameter(str(error), param_hint="--views") from error
    if baselines:
        try:
            require_library()
        except (
            LibraryMissingError
        ) as error:  # said before the long work begins; the other baselines still run
            log.warning("ItemKNN, iALS and BPR will be left out: %s", error)
    with working_home(home, cache) as work, workers(jobs, ray) as working:
        directory = work.fetch("indexes", index) if index and work.in_bucket else None
        pair = load_index(work.home, index or (directory or work.named(CURRENT)).name)
        work.fetch("exports", pair.model.export_id)
        report = evaluate(
            work.home,
            pair,
            split.value,
            chosen,
            baselines=baselines,
            exact=exact,
            robustness=robustness,
            diversity=diversity,
            jobs=working,
        )
        if in_object_storage(home):
            report["dataset"] = home.rstrip("/").rpartition("/")[2]
        if json_path:
            json_path.write_text(report_text(report), "utf-8")
        kept = keep_report(work.home, report, page_html(report, print_tables(report)))
        if work.in_bucket:
            work.place.add("reports", kept)
        where = f"{home.rstrip('/')}/reports/{kept.name}" if in_object_storage(home) else kept
        print(f"report: {where} ({REPORT_FILE}, {PAGE_FILE})")
