"""python -m scripts.documents: make those parts of the documents that programs make."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from scripts.terminal import HomeOption, set_up_logging

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SERVE = "```sh\ntriptych serve --home demo-home &\n```\n"  # what docs/cookbook/index.md has done

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.command()
def api() -> None:
    """Write docs/api.md.

    Example: python -m scripts.documents api
    """
    from scripts.documents.api_page import api_page

    (DOCS / "api.md").write_text(api_page(ROOT / "proto"), "utf-8")


@app.command()
def diagrams() -> None:
    """Write the diagrams of docs/images/.

    Example: python -m scripts.documents diagrams
    """
    from scripts.documents.diagrams import svg
    from scripts.documents.drawn import DIAGRAMS

    for name, diagram in DIAGRAMS.items():
        (DOCS / "images" / f"{name}.svg").write_text(svg(diagram), "utf-8")


@app.command()
def outputs(
    home: HomeOption,
    page: Annotated[list[str] | None, typer.Option(help="Only this page, such as video.")] = None,
) -> None:
    """Run the quick start and the cookbook, on copies of a demo's home, and note what they print.

    Example: python -m scripts.documents outputs --home demo-home
    """
    from scripts.documents.pages import PageRun, with_outputs

    quick_start, first = DOCS / "quick-start.md", DOCS / "cookbook" / "index.md"
    for path in [quick_start, *sorted((DOCS / "cookbook").glob("*.md"))]:
        if path == first or (page and path.stem not in page):
            continue
        with tempfile.TemporaryDirectory() as folder, PageRun(Path(folder)) as run:
            if path != quick_start:
                shutil.copytree(home, Path(folder) / "demo-home")
                run.run(SERVE)
            text = path.read_text("utf-8")
            path.write_text(with_outputs(text, run.run(text)), "utf-8")
        print(path.relative_to(ROOT))


@app.command()
def notebook() -> None:
    """Execute the notebook and keep its outputs.

    Example: python -m scripts.documents notebook
    """
    from scripts.documents import notebook as books

    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        books.write(books.execute(path), path)


@app.command()
def pictures(home: HomeOption) -> None:
    """Draw the pictures of docs/concepts.md from a demo's home that was evaluated.

    Example: python -m scripts.documents pictures --home demo-home
    """
    from scripts.documents.pictures import draw

    draw(home, DOCS / "images")


if __name__ == "__main__":
    set_up_logging(verbose=False)
    app()
