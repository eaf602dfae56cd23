"""The result of a check of `triptych doctor`."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check ended; only `failed` makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One line of the table; the hint says what to do, and is empty where all is well."""

    name: str
    state: State
    found: str
    hint: str = ""
