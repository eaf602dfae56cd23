"""Evaluation reports of a home: each an artifact with the figures as JSON and as a page."""

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from store.artifact import DamagedArtifactError, artifacts, build, new_id, read_manifest, remove_artifact
from store.home import Home
from store.locks import LockedError

KIND = "report"
REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
MOST_REPORTS = 100  # that a home keeps
MOST_BYTES = 3 << 20  # of the JSON of one report that is told; a reply of gRPC holds 4 MiB
_MAIN = "20"  # the k of the figures that a manifest repeats

log = logging.getLogger(__name__)


class ReportNotFoundError(LookupError):
    """The home has no such report."""

    def __init__(self, report_id: str) -> None:
        super().__init__(f"there is no report {report_id!r}; the newest {MOST_REPORTS} are kept")
        self.report_id = report_id


class ReportTooLargeError(ValueError):
    """A report is too large for a reply; its file holds it."""

    def __init__(self, report_id: str, nbytes: int) -> None:
        super().__init__(
            f"report {report_id} has {nbytes:,} bytes, more than the {MOST_BYTES:,} of a reply: "
            f"read reports/{report_id}/{REPORT_FILE} in the home"
        )
        self.report_id, self.nbytes = report_id, nbytes


def keep_report(home: Home, report: Mapping[str, Any], page: str) -> Path:
    """Write a report into the home, whole or not at all; of more than MOST_REPORTS the oldest are removed.

    Args:
        home: where reports/ is.
        report: as `triptych evaluate --json` writes it.
        page: of the report, HTML.

    Returns:
        Its directory.

    Raises:
        DiskFullError, ReadOnlyDiskError: the disk takes nothing more; nothing is left behind.
    """
    with build(home.reports, new_id()) as draft:
        draft.facts = _facts(report)
        (draft.path / REPORT_FILE).write_text(report_text(report), "utf-8")
        (draft.path / PAGE_FILE).write_text(page, "utf-8")
    kept = artifacts(home.reports)
    for report_id in kept[:-MOST_REPORTS]:
        with suppress(FileNotFoundError, LockedError):  # another evaluation is about to
            remove_artifact(home.reports / report_id)
        log.info("report %s is removed: the newest %d are kept", report_id, MOST_REPORTS)
    return home.reports / kept[-1]


def read_report(home: Home, report_id: str) -> str:
    """Return a report as JSON, compared with its checksum.

    Raises:
        ReportNotFoundError: there is none of this id.
        ReportTooLargeError: it has more than MOST_BYTES.
        DamagedArtifactError: it is not what was written; names the file.
    """
    if report_id not in artifacts(home.reports):  # so no id is a way out of the folder
        raise ReportNotFoundError(report_id)
    facts = read_manifest(home.reports / report_id)
    path = home.reports / report_id / REPORT_FILE
    if facts.get("kind") != KIND or REPORT_FILE not in facts["files"]:
        raise DamagedArtifactError(path.parent, f"is a {facts.get('kind')!r}, not a {KIND}")
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ReportTooLargeError(report_id, size)
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedArtifactError(path, "is missing") from error
    if hashlib.sha256(raw).hexdigest() != facts["files"][REPORT_FILE]:
        raise DamagedArtifactError(path, "is damaged: its sha256 is not the one in the manifest")
    return raw.decode()


def report_text(report: Mapping[str, Any]) -> str:
    """Return a report as files hold it."""
    return json.dumps(report, indent=2) + "\n"


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a list of reports tells of one."""
    named = ("dataset", "split", "model_id", "index_id", "users", "views")
    main, others = report["k"][_MAIN], report["baselines"].items()
    return (
        {"kind": KIND}
        | {name: report[name] for name in named}
        | {"recall@20": main["recall"], "recall@20_ci95": main["recall_ci95"], "ndcg@20": main["ndcg"]}
        | {
            "baselines": [name for name, one in others if _MAIN in one],
            "robustness": bool(report.get("robustness")),
        }
    )
