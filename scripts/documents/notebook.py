"""The notebook: executed in a folder of its own, and as a page of the site."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from scripts.documents.pages import environment

Notebook = dict[str, Any]
_SECONDS = 600  # that a cell may take
_PICTURE = "image/png"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal


class NotebookOutputError(ValueError):
    """An output of the notebook names a place of the machine that it ran on."""

    def __init__(self, line: str) -> None:
        super().__init__(f"the notebook prints a place of this machine: {line[:200]!r}; print a relative one")


def read(path: Path) -> Notebook:
    """Return a notebook (nbformat 4)."""
    notebook: Notebook = json.loads(path.read_text("utf-8"))
    return notebook


def execute(path: Path) -> Notebook:
    """Run all cells of a notebook in an empty folder and return it with their outputs.

    Cells find the commands of this environment. Times and counters of the run are left out, so that the same
    outputs give the same file.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        NotebookOutputError: an output names a folder of this machine.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=_SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute(env=environment())
        done: Notebook = json.loads(nbformat.writes(notebook))  # type: ignore[no-untyped-call]
        for cell in done["cells"]:
            _tidy(cell)
        _check(done, folder)
    return done


def write(notebook: Notebook, path: Path) -> None:
    """Write a notebook as editors do."""
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


def markdown_of(notebook: Notebook) -> str:
    """Return a notebook as a page: its texts, code, and outputs."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts.extend(part for output in cell["outputs"] for part in _shown(output))
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> list[str]:
    """Return an output as Markdown: a picture, or text."""
    data = output.get("data", {})
    if _PICTURE in data:
        raw = "".join(data[_PICTURE]).replace("\n", "")
        return [f'<img alt="what the cell drew" src="data:{_PICTURE};base64,{raw}">']
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return [f"```text\n{text}\n```"] if text else []


def _tidy(cell: dict[str, Any]) -> None:
    cell["metadata"] = {}
    if cell["cell_type"] == "code":
        cell["execution_count"] = None
        cell["outputs"] = [one for one in cell["outputs"] if one.get("name") != "stderr"]
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = None
            if "text" in output:
                output["text"] = _COLOURS.sub("", "".join(output["text"])).splitlines(keepends=True)


def _check(notebook: Notebook, folder: str) -> None:
    places = {folder, tempfile.gettempdir(), os.path.expanduser("~"), os.getcwd()} - {"/", "."}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            for line in text.splitlines():
                if any(place in line for place in places):
                    raise NotebookOutputError(line)
