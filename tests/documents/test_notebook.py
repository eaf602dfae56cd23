"""The notebook was executed, tells nothing of the machine, and runs."""

import json
import re
from pathlib import Path

import pytest

from scripts.documents.notebook import NotebookOutputError, execute, markdown_of, read

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first-steps.ipynb"
MACHINE = re.compile(r"(?<![\w.])/(?:tmp|home|root|work|usr|opt|var)/")


def test_the_notebook_was_executed_and_names_no_place_of_a_machine() -> None:
    notebook = read(NOTEBOOK)
    import nbformat  # here, as it takes seconds to load

    nbformat.validate(nbformat.from_dict(notebook))
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 2
    assert len(outputs) >= 10
    assert not any(one["output_type"] == "error" for one in outputs)
    assert not MACHINE.search(json.dumps([one for one in outputs if "image/png" not in one.get("data", {})]))


def test_the_page_of_a_notebook_has_its_texts_code_and_outputs() -> None:
    page = markdown_of(read(NOTEBOOK))
    assert page.startswith("# First steps")
    assert "```python\nfrom pathlib import Path" in page
    assert "behaviours," in page.split("```text")[1]
    assert page.count("data:image/png;base64,") == 2


def small(folder: Path, source: str) -> Path:
    cell = {
        "cell_type": "code",
        "id": "one",
        "metadata": {},
        "execution_count": 7,
        "outputs": [],
        "source": source,
    }
    path = folder / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_a_run_keeps_outputs_and_no_counters(tmp_path: Path) -> None:
    (cell,) = execute(small(tmp_path, "import sys; print('said'); print('aside', file=sys.stderr); 6 * 7"))[
        "cells"
    ]
    assert cell["execution_count"] is None
    assert [one.get("text", one.get("data")) for one in cell["outputs"]] == [
        ["said\n"],
        {"text/plain": ["42"]},
    ]


def test_an_output_that_names_a_folder_of_the_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotebookOutputError, match="print a relative one"):
        execute(small(tmp_path, "import os; print(os.getcwd())"))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_notebook_runs() -> None:
    execute(NOTEBOOK)
