"""Values of records as an import takes them: text, times of UTC, attributes as JSON."""

import json
import math
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from scripts.exchange.lines import Lines
from scripts.exchange.sources import BadRecordError
from store.imports import UTF_8

BAD_TIME = "unparsable_time"
NESTED = "value_is_nested"
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1)
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_PROBED = 4 << 20  # bytes of a file by which its encoding is known


def text_of(value: Any) -> str | None:
    """Return a value as text, None where it is missing; whole numbers are without a point.

    Raises:
        BadRecordError: it is a list or an object.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | dict):
        raise BadRecordError(NESTED)
    return str(value)


def joined(*texts: Any, between: str = "\n") -> str | None:
    """Join what is there of some texts, and of lists of texts."""
    parts = [one for text in texts for one in (text if isinstance(text, list) else [text])]
    return between.join(one.strip() for one in parts if isinstance(one, str) and one.strip()) or None


def time_of(value: Any, unit: str = "s") -> datetime | None:
    """Return the time of a number of seconds or parts of one since 1970.

    Raises:
        BadRecordError: it is no number, or beyond the calendar.
    """
    if value is None or value == "":
        return None
    try:
        number = int(value) if isinstance(value, str | int) else float(value)
    except (ValueError, OverflowError):
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise BadRecordError(BAD_TIME) from error
    except TypeError as error:
        raise BadRecordError(BAD_TIME) from error
    try:
        whole = isinstance(number, int)
        microseconds = number * 1_000_000
        return _EPOCH + timedelta(
            microseconds=microseconds // UNITS[unit] if whole else round(microseconds / UNITS[unit])
        )
    except (OverflowError, ValueError) as error:
        raise BadRecordError(BAD_TIME) from error


def written_time(value: Any, pattern: str | None = None) -> datetime | None:
    """Return the time of ISO 8601 text, or of text by a pattern of strptime; without a zone it is of UTC.

    Raises:
        BadRecordError: it is none.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, date):
            time = datetime(value.year, value.month, value.day)
        else:
            time = datetime.strptime(value, pattern) if pattern else datetime.fromisoformat(value.strip())
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadRecordError(BAD_TIME) from error


def attributes_of(**values: Any) -> str | None:
    """Return attributes as JSON, without what is missing; None where nothing is there."""
    present = {name: value for name, value in values.items() if value not in (None, "", [], {})}
    return json.dumps(present, ensure_ascii=False, default=str) if present else None


def year_of(title: str | None) -> int | None:
    """Return the year in parentheses at the end of a title."""
    found = _YEAR.search(title or "")
    return int(found[1]) if found else None


def encoding_of(path: Path, given: str | None) -> str:
    """Return the given encoding; without one UTF-8, or latin-1 where the begin of the file is no UTF-8."""
    if given:
        return given
    with Lines(path) as lines:
        for line in lines:
            try:
                line.decode()
            except UnicodeDecodeError:
                return "latin-1"
            if lines.offset > _PROBED:
                break
    return UTF_8
