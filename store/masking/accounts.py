"""Find numbers of payment cards and IBANs in a text."""

import re
from collections.abc import Iterator

from stdnum import iban, luhn

from store.masking.spans import NOT_BEFORE, NOT_BEHIND, Span

_DIGITS = re.compile(NOT_BEFORE + r"\d(?:[ -]?\d){12,18}" + NOT_BEHIND)
# By issuer: first digits, and numbers of digits.
_CARDS = (
    (re.compile(r"4"), (13, 16, 19)),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"62|81"), (16, 17, 18, 19)),  # UnionPay
    (re.compile(r"6011|64[4-9]|65"), (16, 17, 18, 19)),  # Discover
    (re.compile(r"352[89]|35[3-8]"), (16, 17, 18, 19)),  # JCB
    (re.compile(r"30[0-5]|309|36|38|39"), (14, 16)),  # Diners Club
    (re.compile(r"50|5[6-9]|6[0379]"), (13, 15, 16, 18, 19)),  # Maestro
)
_IBAN = re.compile(NOT_BEFORE + r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}")
_SHORTEST_IBAN = 15


def cards(text: str) -> Iterator[Span]:
    """Find card numbers: of a length and beginning that an issuer has, with the right check digit."""
    for match in _DIGITS.finditer(text):
        digits = re.sub("[ -]", "", match[0])
        known = any(start.match(digits) and len(digits) in lengths for start, lengths in _CARDS)
        if known and luhn.is_valid(digits):
            yield match.span()


def ibans(text: str) -> Iterator[Span]:
    """Find IBANs, in one piece or in groups, with the right check digits and length of their country."""
    for match in _IBAN.finditer(text):
        ends = [match.start() + at for at, char in enumerate(match[0], 1) if char not in " -"]
        for end in reversed(ends[_SHORTEST_IBAN - 1 :]):  # words behind it may be in capitals, too
            if not re.match("[0-9A-Za-z]", text[end:]) and iban.is_valid(text[match.start() : end]):
                yield match.start(), end
                break
