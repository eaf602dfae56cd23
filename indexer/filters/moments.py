"""Dates and times that are written as text."""

import re
from datetime import datetime, timedelta

_FIRST = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<time>\d\d:\d\d(?::\d\d)?)(?:\.(?P<fraction>\d+))?"
    r"(?P<zone>Z|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?)?)?",
    re.ASCII,
)


class Moment(int):
    """Microseconds since 1970-01-01T00:00:00Z."""


def moment_of(text: str) -> Moment | None:
    """Return the moment that a text means, None where it is no date or time.

    It is one where the whole of it is a date of ISO 8601, 1999-05-01, or a date and a time, 1999-05-01T20:15,
    with T or a blank between them, seconds or without, a fraction of them, and Z or an offset such as +02:00,
    +0200 or +02. A date is its first moment; without an offset it is UTC. The year is 0001 to 9999. Beyond
    microseconds digits are dropped.
    """
    if len(text) < 10 or text[4] != "-":
        return None  # nearly all texts, at no cost
    read = _ISO.fullmatch(text)
    if read is None or (read["fraction"] and len(read["time"]) < len("20:15:00")):
        return None
    try:
        local = datetime.fromisoformat(f"{read['date']}T{read['time'] or '00:00'}")
    except ValueError:  # such as the 30th of February
        return None
    hours, minutes = int(read["hours"] or 0), int(read["minutes"] or 0)
    if hours > 23 or minutes > 59:
        return None
    offset = timedelta(hours=hours, minutes=minutes) // _MICROSECOND * (-1 if read["sign"] == "-" else 1)
    fraction = int((read["fraction"] or "")[:6].ljust(6, "0"))
    return Moment((local - _FIRST) // _MICROSECOND + fraction - offset)
