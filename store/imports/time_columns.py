"""Decide what the numbers of a time column mean: years, dates like 20210131, or s, ms, µs or ns since 1970.

The decision is made from all numbers of a column. An instant between 1973 and 2103 has a different number of
digits in each unit, so such a number has one meaning. Small numbers are taken as a clock that began at 0, in
the unit of the others; where more of them look like years or dates, nothing is taken as a moment of 1970.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

TIMES: Mapping[str, str] = {
    "years": "years",
    "dates": "dates such as 20210131",
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "microseconds since 1970",
    "ns": "nanoseconds since 1970",
}
AUTO = "auto"
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SMALL = 10**8  # seconds: 1973-03-03
_LATE = 42 * 10**8  # seconds: 2103-02-04
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # seconds: the years 1 to 9999
_AMBIGUOUS = {
    "s or ms": ("s", "ms"),
    "ms or us": ("ms", "us"),
    "us or ns": ("us", "ns"),
    "ms or dates": ("ms", "dates"),
}
_IS_DATE = (
    "try_strptime(TRY_CAST({x} AS BIGINT)::VARCHAR, ['%Y%m%d', '%Y%m%d%H%M', '%Y%m%d%H%M%S']) IS NOT NULL"
)
_WHOLE = "{x} = floor({x}) AND {x} BETWEEN"
# The first that holds; CASE computes a date only where the digits may be one.
_CLASSES = f"""CASE
    WHEN {_WHOLE} 1900 AND 2100 THEN 'years'
    WHEN {_WHOLE} 19000101 AND 21001231 THEN CASE WHEN {_IS_DATE} THEN 'dates' ELSE 'no date' END
    WHEN abs({{x}}) < {_SMALL} THEN 'small'
    WHEN abs({{x}}) < {_LATE} THEN 's'
    WHEN abs({{x}}) < {_SMALL}e3 THEN 's or ms'
    WHEN {_WHOLE} 190001010000 AND 210012312359 AND CASE
        WHEN {_WHOLE} 190001010000 AND 210012312359 THEN {_IS_DATE} END THEN 'ms or dates'
    WHEN abs({{x}}) < {_LATE}e3 THEN 'ms'
    WHEN {_WHOLE} 19000101000000 AND 21001231235959 AND CASE
        WHEN {_WHOLE} 19000101000000 AND 21001231235959 THEN {_IS_DATE} END THEN 'dates'
    WHEN abs({{x}}) < {_SMALL}e6 THEN 'ms or us'
    WHEN abs({{x}}) < {_LATE}e6 THEN 'us'
    WHEN abs({{x}}) < {_SMALL}e9 THEN 'us or ns'
    WHEN abs({{x}}) < {_LATE}e9 THEN 'ns'
    ELSE 'none' END"""


class UnknownTimesError(ValueError):
    """The meaning of times is none of TIMES."""

    def __init__(self, times: str) -> None:
        super().__init__(f"times {times!r} is none of {AUTO}, {', '.join(TIMES)}")
        self.times = times


class AmbiguousTimesError(ValueError):
    """The numbers of a time column may mean two things, and no option says which."""

    def __init__(self, file: Path, column: str, value: float, readings: tuple[str, str]) -> None:
        either = " or ".join(TIMES[one] for one in readings)
        say = " or ".join(f"--times {one}" for one in readings)
        super().__init__(
            f"{file}: the numbers of column {column!r}, such as {value:.15g}, may be {either}: say {say}"
        )
        self.file, self.column, self.value, self.readings = file, column, value, readings


@dataclass(frozen=True)
class TimeReading:
    """How the numbers of a column are read.

    Attributes:
        sql: expression of the time of a number, `{x}` as DOUBLE and `{raw}` as it came; "" without numbers.
        remark: a sentence for the report, or None.
    """

    sql: str
    remark: str | None = None


def check_times(times: str) -> None:
    """Check that `times` is auto or one of TIMES.  Raises: UnknownTimesError."""
    if times not in (AUTO, *TIMES):
        raise UnknownTimesError(times)


def reading_of_times(
    cursor: duckdb.DuckDBPyConnection, relation: str, column: str, file: Path, times: str
) -> TimeReading:
    """Decide how the numbers of a column are read: as `times` says, for auto from their sizes.

    Raises:
        AmbiguousTimesError: auto, and most of the numbers may mean two things.
    """
    if times != AUTO:
        return TimeReading(_converted(times))
    number = f"TRY_CAST({column} AS DOUBLE)"
    numbers = f"(SELECT {number} AS x FROM {relation}) WHERE x IS NOT NULL AND NOT isnan(x)"
    rows = cursor.execute(f"SELECT 's', count(*), min(x), max(x) FROM {numbers}").fetchall()
    _, count, least, most = rows[0]
    if count and not _SMALL <= least <= most < _LATE:  # otherwise all are seconds
        rows = cursor.execute(f"""
            SELECT {_CLASSES.format(x="x")} AS class, count(*), min(x), max(x) FROM {numbers}
            GROUP BY class ORDER BY class""").fetchall()
    counts = {str(name): int(count) for name, count, _, _ in rows if count}
    if not counts:
        return TimeReading("")
    total = sum(counts.values())
    for name, count, least, _ in rows:
        if name in _AMBIGUOUS and 2 * count > total:
            raise AmbiguousTimesError(file, column, least, _AMBIGUOUS[name])
    extent = [float(end) for name, _, least, most in rows if name == "small" for end in (least, most)]
    return _by_size(column, counts, extent)


def _by_size(column: str, counts: Mapping[str, int], extent: list[float]) -> TimeReading:
    units = [unit for unit in _UNITS if unit in counts]
    unit = max(units, key=lambda one: counts[one], default="s")
    calendar = sum(counts.get(name, 0) for name in ("years", "dates", "no date"))
    readings: dict[str, str | None] = {one: one for one in units}
    if calendar and calendar >= counts.get("small", 0):
        readings |= {"years": "years", "dates": "dates"}
    else:
        readings |= dict.fromkeys(("small", "years", "no date"), unit)
        readings["dates"] = "dates" if counts.get("small", 0) == 0 else unit
    readings["ms or dates"] = "ms" if units else readings["dates"]
    used = {name: reading for name, reading in readings.items() if reading and name in counts}
    arms = " ".join(f"WHEN '{name}' THEN {_converted(reading)}" for name, reading in used.items())
    if set(counts) <= set(used) and len(set(used.values())) == 1:
        sql = _converted(next(iter(used.values())))
    else:
        sql = f"CASE {_CLASSES} {arms} END" if arms else "NULL::TIMESTAMP"
    return TimeReading(sql, _remark(column, used, counts, extent))


def _remark(
    column: str, used: Mapping[str, str], counts: Mapping[str, int], extent: list[float]
) -> str | None:
    if set(used) <= {"s"}:
        return None
    if "small" in used and not set(used) & set(_UNITS):
        small = f"{extent[0]:.15g} to {extent[-1]:.15g}"
        return f"{column}: small numbers ({small}) are read as {TIMES[used['small']]}; --times says otherwise"
    rows: dict[str, int] = {}
    for name, reading in used.items():
        rows[reading] = rows.get(reading, 0) + counts[name]
    return f"{column}: " + ", ".join(
        f"{n:,} numbers are read as {TIMES[reading]}" for reading, n in rows.items()
    )


def _converted(reading: str) -> str:
    """Return SQL of the time of a number in one reading, NULL outside the years 1 to 9999."""
    if reading == "years":
        new_year = "make_timestamp(TRY_CAST({x} AS BIGINT), 1, 1, 0, 0, 0.0)"
        return f"CASE WHEN {_WHOLE} 1 AND 9999 THEN {new_year} END"
    if reading == "dates":
        date = _IS_DATE.removesuffix(" IS NOT NULL")
        return f"CASE WHEN {_WHOLE} 10101 AND 99991231235959 THEN {date} END"
    per_second = _UNITS[reading]
    if reading == "ns":  # a double has too few digits
        micros = "coalesce(TRY_CAST({raw} AS BIGINT), TRY_CAST({x} AS BIGINT)) // 1000"
    else:
        micros = f"TRY_CAST(round({{x}} * {10**6 // per_second}) AS BIGINT)"
    bounds = f"{_FIRST * per_second}::DOUBLE AND {_LAST * per_second}::DOUBLE"
    return f"CASE WHEN {{x}} BETWEEN {bounds} THEN make_timestamp({micros}) END"
