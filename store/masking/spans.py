"""Where something lies in a text."""

from collections.abc import Callable, Iterator

Span = tuple[int, int]  # from the first character to behind the last one
Recogniser = Callable[[str], Iterator[Span]]

# Digits and Latin letters that stand beside a number are a part of it; Chinese characters are not, though
# they count as letters for \b.
NOT_BEFORE = r"(?<![0-9A-Za-z])"
NOT_BEHIND = r"(?![0-9A-Za-z])"
