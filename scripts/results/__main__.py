"""python -m scripts.results DATA RESULTS: the figures of every data set in DATA, as Markdown in RESULTS."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Never

import typer

from scripts.results.markdown import read_outcome, results_markdown
from scripts.results.plan import NoDataSetError, data_sets
from scripts.results.run import NoCheckoutError, StepFailedError, commit_of, locked_results, run_steps
from store.locks import LockedError


def results_command(
    data: Annotated[Path, typer.Argument(help="A folder of folders in the import layout.")],
    results: Annotated[Path, typer.Argument(help="The working folder: homes, markers, logs, tables.")],
    only: Annotated[
        list[str] | None, typer.Option("--set", help="Only this data set; may be given again.")
    ] = None,
    train: Annotated[
        str, typer.Option(help="Further words of `triptych train`, e.g. '--epochs 2 --members 1'.")
    ] = "",
    any_commit: Annotated[
        bool, typer.Option("--any-commit", help="Take what was done at other commits, too.")
    ] = False,
    commit: Annotated[
        str | None, typer.Option(help="Name of the code that runs; default: the checkout's commit.")
    ] = None,
) -> None:
    """Import, train, reindex and evaluate every data set, and write RESULTS/results.md.

    Started again, it goes on where it was cut off.

    Example: python -m scripts.results ~/data ~/results --set lastfm
    """
    signal.signal(signal.SIGTERM, _terminated)  # the step that runs is ended, too
    data, results = data.resolve(), results.resolve()
    try:
        chosen, commit = data_sets(data, only or ()), commit or commit_of()
        print(f"commit {commit}: {', '.join(one.name for one in chosen)}", flush=True)
        with locked_results(results) as lock:
            made = []
            for one in chosen:
                steps, folder = one.steps(results, shlex.split(train)), results / "steps" / one.name
                run_steps(steps, folder, commit, any_commit=any_commit, lock=lock)
                made.append(read_outcome(one, results, steps, folder))
                (results / "results.md").write_text(results_markdown(made), "utf-8")  # as far as it is
    except (StepFailedError, NoDataSetError, NoCheckoutError, LockedError) as error:
        print(f"results: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"tables: {results / 'results.md'}")


def _terminated(number: int, _frame: object) -> Never:
    sys.exit(128 + number)


if __name__ == "__main__":
    typer.run(results_command)
