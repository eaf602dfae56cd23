"""Find telephone numbers in a text, by Google's libphonenumber."""

import re
from collections.abc import Iterator, Sequence

import phonenumbers

from store.masking.spans import Span

REGIONS = phonenumbers.SUPPORTED_REGIONS
_DIGITS = re.compile(r"[+(]?\d(?:[^\w@]{0,4}\d)+(?:\s*(?:ext\.?|x|#|转|分机)\s*\d{1,6})?")
_AROUND = 8  # characters beside digits that may belong to a number, or say that it is none
_LEAST_DIGITS = 7
_CHINA = 86


def phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Find numbers that are valid in one of some regions, or written with +; a region may find one again."""
    for piece in _DIGITS.finditer(text):
        if sum(char.isdecimal() for char in piece[0]) < _LEAST_DIGITS:
            continue
        start = max(0, piece.start() - _AROUND)
        part = text[start : piece.end() + _AROUND]  # the matcher takes its time over each character
        for region in regions:
            for match in phonenumbers.PhoneNumberMatcher(part, region):
                if not _lacks_trunk_prefix(match):
                    yield start + match.start, start + match.end


def _lacks_trunk_prefix(match: phonenumbers.PhoneNumberMatch) -> bool:
    """Return whether digits would be a landline of China, were they not without the 0 that begins one."""
    landline = phonenumbers.PhoneNumberType.FIXED_LINE
    return (
        match.number.country_code == _CHINA
        and match.raw_string.isdecimal()
        and not match.raw_string.startswith("0")
        and phonenumbers.number_type(match.number) == landline
    )
