"""python -m scripts.gpu: everything that needs a graphics card, within eight minutes."""

import datetime
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from scripts.gpu.card import NO_CARD, NoCardError, find_card
from scripts.gpu.markdown import gpu_markdown
from scripts.gpu.run import STEPS, run_steps
from scripts.terminal import write_json

SECONDS = 470.0


def gpu_command(
    json_path: Annotated[Path, typer.Option("--json", help="Where to write all figures.")] = Path("gpu.json"),
    markdown_path: Annotated[
        Path, typer.Option("--markdown", help="Where to write the section of docs/benchmarks.md.")
    ] = Path("gpu.md"),
    only: Annotated[list[str] | None, typer.Option("--step", help="Only this step; repeatable.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="For all steps together.")] = SECONDS,
) -> None:
    """Run the tests marked `gpu` and measure search, builds, text encoding and training on the card.

    Exit code 0, 1 where a step found nothing (the others are reported), 3 without a card.

    Example: python -m scripts.gpu --json gpu.json --markdown gpu.md
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        card = find_card()
    except NoCardError as error:
        print(f"gpu: {error}", file=sys.stderr)
        raise typer.Exit(NO_CARD) from error
    unknown = set(only or ()) - {step.name for step in STEPS}
    if unknown:
        known = ", ".join(step.name for step in STEPS)
        raise typer.BadParameter(f"there is no step {', '.join(sorted(unknown))}; there are {known}")
    found = run_steps([step for step in STEPS if not only or step.name in only], seconds)
    import faiss

    report = {
        "card": card,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "faiss": faiss.__version__,
        "steps": found,
    }
    write_json(json_path, report)
    markdown_path.write_text(gpu_markdown(report), "utf-8")
    print(f"figures: {json_path}, section: {markdown_path}")
    if any("error" in one for one in found.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(gpu_command)
