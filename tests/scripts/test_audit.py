"""What the audit of packages says of reports of pip-audit."""

import json
from typing import Any

from scripts.audit import CONSTRAINTS, verdict

SKIPPED: dict[str, Any] = {"name": "b", "skip_reason": "Dependency not found on PyPI"}
SOUND: dict[str, Any] = {"name": "c", "version": "2", "vulns": []}
FAULTY: dict[str, Any] = {
    "name": "a",
    "version": "1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}, {"id": "PYSEC-2", "fix_versions": []}],
}


def said(*packages: dict[str, Any]) -> tuple[int, list[str]]:
    return verdict(json.dumps({"dependencies": list(packages)}))


def test_a_known_vulnerability_fails_and_is_named() -> None:
    code, lines = said(FAULTY, SOUND, SKIPPED)
    assert code == 1
    assert lines == [
        "a 1: PYSEC-1, mended in 1.1",
        "a 1: PYSEC-2, mended in none",
        "audit: 2 packages asked about, 1 not, 2 known vulnerabilities",
    ]
    assert said(SOUND, SKIPPED) == (0, ["audit: 1 packages asked about, 1 not, 0 known vulnerabilities"])


def test_an_audit_that_could_not_ask_says_that_it_was_not_run() -> None:
    assert said(SKIPPED) == (0, ["audit: not run: no advisories of the 1 packages can be reached"])
    assert verdict("connection refused") == (0, [])


def test_the_pinned_packages_are_where_the_audit_looks() -> None:
    assert "numpy==" in CONSTRAINTS.read_text("utf-8")
