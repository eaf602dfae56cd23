"""Conditions as lines of text, as `--where` takes them, changed by controls: the lines stay what is asked."""

import re

_NEEDS_QUOTES = re.compile(r'[<>=!"~:]|^\s|\s$')
_PLAIN = re.compile(
    r"(?!(true|false)$)[^\s\d\-\"<>=!~:][^\"]*(?<!\s)"
)  # a text that is no number, in no quotes


def may_be_named(name: str) -> bool:
    """Return whether a line can name an attribute."""
    return bool(name.strip()) and '"' not in name and len(name.splitlines()) == 1


def may_be_asked(value: str) -> bool:
    """Return whether a line can ask for a text."""
    return len(value.splitlines()) == 1


def has_value(where: str, name: str, value: str, *, truth: bool = False) -> bool:
    """Return whether a line asks for this value of an attribute."""
    return any(line in _asking(name, value, truth=truth) for line in _lines(where))


def with_value(where: str, name: str, value: str, *, chosen: bool, truth: bool = False) -> str:
    """Return lines that ask for this value of an attribute, or do not any more; the others stay."""
    asking = _asking(name, value, truth=truth)
    kept = [line for line in _lines(where) if line not in asking]
    return "\n".join([*kept, asking[0]] if chosen else kept)


def end_of(where: str, name: str, sign: str) -> str:
    """Return the end of a range, its sign >= or <=, that the last line with it says; "" for none."""
    starts = _starts(name, sign)
    ends = [line[len(one) :].strip() for line in _lines(where) for one in starts if line.startswith(one)]
    return ends[-1] if ends else ""


def with_end(where: str, name: str, sign: str, end: str) -> str:
    """Return lines with another end of a range; "" for none."""
    starts = _starts(name, sign)
    kept = [line for line in _lines(where) if not line.startswith(starts)]
    return "\n".join([*kept, f"{starts[0]}{end}"] if end else kept)


def has_kind(kinds: str, kind: str) -> bool:
    """Return whether a kind is among some with commas between."""
    return kind in _kinds(kinds)


def with_kind(kinds: str, kind: str, *, chosen: bool) -> str:
    """Return kinds with or without one."""
    kept = [one for one in _kinds(kinds) if one != kind]
    return ", ".join([*kept, kind] if chosen else kept)


def _asking(name: str, value: str, *, truth: bool) -> list[str]:
    """Return the lines that ask for a value, that which a control writes first."""
    names = [_named(name), f'"{name}"']
    values = [value] if truth else [f'"{value}"', *([value] if _PLAIN.fullmatch(value) else [])]
    if not truth and _PLAIN.fullmatch(value):
        values.reverse()
    return [f"{one}={other}" for one in names for other in values]


def _starts(name: str, sign: str) -> tuple[str, ...]:
    return f"{_named(name)}{sign}", f'"{name}"{sign}'


def _named(name: str) -> str:
    return f'"{name}"' if _NEEDS_QUOTES.search(name) else name


def _lines(where: str) -> list[str]:
    return [line.strip() for line in where.splitlines() if line.strip()]


def _kinds(kinds: str) -> list[str]:
    return [kind.strip() for kind in kinds.split(",") if kind.strip()]
