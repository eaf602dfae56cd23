"""How many processors a process may use, in a container too."""

from pathlib import Path

import pytest

from encoder.jobs import usable_processors


@pytest.mark.parametrize(
    ("quota", "found"),
    [("max 100000", None), ("50000 100000", 1), ("150000 100000", 2), ("nonsense", None), (None, None)],
)
def test_a_containers_quota_counts(tmp_path: Path, quota: str | None, found: int | None) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    none = tmp_path / "none", tmp_path / "none"
    every = usable_processors(tmp_path / "none", none)
    assert usable_processors(file, none) == (every if found is None else min(every, found))


def test_a_quota_of_the_first_version_counts(tmp_path: Path) -> None:
    quota, period = tmp_path / "quota", tmp_path / "period"
    period.write_text("100000\n")
    every = usable_processors(tmp_path / "none", (tmp_path / "none", period))
    quota.write_text("-1\n")
    assert usable_processors(tmp_path / "none", (quota, period)) == every
    quota.write_text("20000\n")
    assert usable_processors(tmp_path / "none", (quota, period)) == 1
