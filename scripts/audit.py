"""python -m scripts.audit: known vulnerabilities in the pinned packages, where advisories can be reached."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
_SECONDS = 300.0


def main() -> None:
    """Ask PyPI's advisories about each pinned package: exit code 1 where one has a known vulnerability.

    Where nothing can be asked, that is said, and the exit code is 0: a check that did not run is no failure.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"audit: not run: no answer within {_SECONDS:.0f} s")
        return
    code, lines = verdict(done.stdout)
    print("\n".join(lines) or f"audit: not run: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    sys.exit(code)


def verdict(report: str) -> tuple[int, list[str]]:
    """Return the exit code and what to print for a report of pip-audit; no lines where it is none."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        return 0, []
    asked = [one for one in packages if "skip_reason" not in one]
    if not asked:
        return 0, [f"audit: not run: no advisories of the {len(packages)} packages can be reached"]
    found = []
    for one in asked:
        for fault in one["vulns"]:
            mended = ", ".join(fault["fix_versions"]) or "none"
            found.append(f"{one['name']} {one['version']}: {fault['id']}, mended in {mended}")
    skipped = len(packages) - len(asked)
    summary = f"audit: {len(asked)} packages asked about, {skipped} not, {len(found)} known vulnerabilities"
    return int(bool(found)), [*found, summary]


if __name__ == "__main__":
    main()
