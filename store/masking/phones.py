"""Find telephone numbers in a text, by Google's libphonenumber."""

from collections.abc import Iterator, Sequence

import phonenumbers

from store.masking.spans import Span

REGIONS = phonenumbers.SUPPORTED_REGIONS
_LEAST_DIGITS = 7


def phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Find numbers that are valid in one of some regions, or written with +; a region may find one again."""
    if sum(char.isdigit() for char in text) < _LEAST_DIGITS:
        return
    for region in regions:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            yield match.start, match.end
