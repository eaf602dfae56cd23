"""One step of `make gpu`, in a process of its own.

Example: python -m scripts.gpu.step exact OUT.json
"""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


class TestsFailedError(RuntimeError):
    """A test that is marked `gpu` failed."""

    def __init__(self, said: str) -> None:
        super().__init__(f"tests failed: {said.strip().splitlines()[-1] if said.strip() else 'nothing said'}")


def run_tests(report: Path) -> dict[str, Any]:
    """Run every test that is marked `gpu`; return how many passed and why others were skipped.

    Raises:
        TestsFailedError: a test failed, or there was none.
    """
    arguments = ["-m", "gpu", "--timeout", "120", f"--junitxml={report}", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TestsFailedError(done.stdout)
    return counts_of(report)


def counts_of(report: Path) -> dict[str, Any]:
    """Return what pytest's XML report says: passed, skipped, and the reasons of those."""
    suites = ElementTree.parse(report).getroot()  # noqa: S314  # pytest has just written it
    cases = list(suites.iter("testcase"))
    skipped = [case.find("skipped") for case in cases]
    reasons = sorted({str(one.get("message")) for one in skipped if one is not None})
    return {
        "passed": sum(one is None for one in skipped),
        "skipped": len(cases) - sum(one is None for one in skipped),
        "reasons": reasons,
    }


def measures() -> Mapping[str, Callable[[], dict[str, Any]]]:
    """Return what each step calls; heavy imports happen in the one that is called."""

    def parity() -> dict[str, Any]:
        from scripts.gpu.faiss_steps import measure_parity

        return measure_parity()

    def exact() -> dict[str, Any]:
        from scripts.gpu.exact_step import measure_exact

        return measure_exact()

    def builds() -> dict[str, Any]:
        from scripts.gpu.faiss_steps import measure_builds

        return measure_builds()

    def text() -> dict[str, Any]:
        from scripts.gpu.text_step import measure_text

        return measure_text()

    def training() -> dict[str, Any]:
        from scripts.gpu.training_step import measure_training_speed

        return measure_training_speed()

    return {"parity": parity, "exact": exact, "builds": builds, "text": text, "training": training}


def main(name: str, out: Path) -> None:
    """Run one step and write what it found."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    found = run_tests(out.with_suffix(".xml")) if name == "tests" else measures()[name]()
    out.write_text(json.dumps(found, indent=2), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
