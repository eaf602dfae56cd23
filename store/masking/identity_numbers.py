"""Find identity numbers of people in a text, each by its form and its check digits (python-stdnum)."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.exceptions import ValidationError
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.jp import in_ as my_number
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import itin, ssn

from store.masking.spans import NOT_BEFORE, NOT_BEHIND, Span

_LEAST_DIGITS = 4  # of any of them
_NEAR = 40  # characters before a number in which a word may say what it is
_ONE_LETTER = 8  # characters of a number of Hong Kong with one letter
_NINO = r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]( ?)\d{2}\1\d{2}\1\d{2}\1[A-D]"
_TAIWAN_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"  # A is 10, B is 11, ...


def is_chinese_id(number: str) -> bool:
    """Return whether 18 characters have a date of birth and the check digit of a resident identity card.

    Not `ric.is_valid`: its table of places lacks districts that numbers of living people begin with.
    """
    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return number[-1].upper() == ric.calc_check_digit(number)


def is_taiwan_id(number: str) -> bool:
    """Return whether a letter and nine digits have the check digit of an identity card of Taiwan."""
    code = 10 + _TAIWAN_LETTERS.index(number[0])
    digits = [code // 10, code % 10, *map(int, number[1:])]
    return sum(a * b for a, b in zip(digits, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True)) % 10 == 0


def is_hong_kong_id(number: str) -> bool:
    """Return whether letters, six digits and a check character are an identity card of Hong Kong."""
    values = [int(char, 36) for char in re.sub(r"[()（）]", "", number)]
    if len(values) == _ONE_LETTER:
        values.insert(0, 36)  # a blank in the place of the first letter
    return sum(a * b for a, b in zip(values, range(9, 0, -1), strict=True)) % 11 == 0


@dataclass(frozen=True)
class IdentityNumber:
    """One kind of number.

    Attributes:
        pattern: its form.
        is_valid: checks what is of that form.
        word: what must stand shortly before it, where too many other numbers pass the check; "" for nothing.
    """

    pattern: str
    is_valid: Callable[[str], bool]
    word: str = ""


_ID_WORDS_JP = "マイナンバー|個人番号|my ?number"
NUMBERS = (
    IdentityNumber(r"\d{17}[0-9Xx]", is_chinese_id),  # China
    IdentityNumber(r"[A-Z][12]\d{8}", is_taiwan_id),
    IdentityNumber(r"[A-Z]{1,2}\d{6}[(（][0-9A][)）]", is_hong_kong_id),
    IdentityNumber(r"[A-Z]{1,2}\d{6}[0-9A]", is_hong_kong_id, "hkid|香港身份[证證]|hong kong id"),
    IdentityNumber(r"\d{3}-\d{2}-\d{4}", ssn.is_valid),
    IdentityNumber(r"\d{3}-\d{2}-\d{4}", itin.is_valid),
    IdentityNumber(r"\d{9}", ssn.is_valid, "ssn|social security"),
    IdentityNumber(r"\d{3}[ -]?\d{3}[ -]?\d{3}", sin.is_valid, r"\bsin\b|social insurance"),
    IdentityNumber(_NINO, bool),  # of the United Kingdom, without check digits
    IdentityNumber(r"\d{3}[ -]?\d{3}[ -]?\d{4}", nhs.is_valid, r"\bnhs\b"),
    IdentityNumber(r"\d{2} ?\d{3} ?\d{3} ?\d{3}", idnr.is_valid, r"steuer|idnr|id-nr|tax id"),
    IdentityNumber(r"[12] ?\d{2} ?\d{2} ?\d[0-9AB] ?\d{3} ?\d{3} ?\d{2}", nir.is_valid),
    IdentityNumber(r"\d{8}-?[A-Z]", dni.is_valid),
    IdentityNumber(r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid),
    IdentityNumber(r"[A-Za-z]{6}[0-9A-Za-z]{2}[A-Za-z][0-9A-Za-z]{2}[A-Za-z][0-9A-Za-z]{3}[A-Za-z]",
                   codicefiscale.is_valid),
    IdentityNumber(r"\d{9}", bsn.is_valid, r"\bbsn\b|burgerservice"),
    IdentityNumber(r"\d{11}", pesel.is_valid, "pesel"),
    IdentityNumber(r"(?:\d{2})?\d{6}[-+]\d{4}", personnummer.is_valid),
    IdentityNumber(r"\d{6}-?\d{4}", cpr.is_valid, r"\bcpr\b"),
    IdentityNumber(r"\d{6}[-+A]\d{3}[0-9A-Y]", hetu.is_valid),
    IdentityNumber(r"\d{6} ?\d{5}", fodselsnummer.is_valid),
    IdentityNumber(r"\d{3}\.\d{3}\.\d{3}-\d{2}", cpf.is_valid),
    IdentityNumber(r"\d{11}", cpf.is_valid, r"\bcpf\b"),
    IdentityNumber(r"[2-9]\d{3}([ -])\d{4}\1\d{4}(?![ -]\d)", aadhaar.is_valid),
    IdentityNumber(r"[2-9]\d{11}", aadhaar.is_valid, "aadhaar|aadhar|uidai"),
    IdentityNumber(r"[A-Z]{5}\d{4}[A-Z]", pan.is_valid),
    IdentityNumber(r"\d{4}[ -]?\d{4}[ -]?\d{4}", my_number.is_valid, _ID_WORDS_JP),
    IdentityNumber(r"\d{6}-\d{7}", rrn.is_valid),
    IdentityNumber(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", curp.is_valid),
)  # fmt: skip
_COMPILED = tuple(
    (re.compile(NOT_BEFORE + one.pattern + NOT_BEHIND), one.is_valid,
     re.compile(one.word, re.IGNORECASE) if one.word else None)
    for one in NUMBERS
)  # fmt: skip


def identity_numbers(text: str) -> Iterator[Span]:
    """Find identity numbers of all kinds."""
    if sum(char.isdecimal() for char in text) < _LEAST_DIGITS:
        return
    for pattern, is_valid, word in _COMPILED:
        for match in pattern.finditer(text):
            if word is not None and not word.search(text[max(0, match.start() - _NEAR) : match.start()]):
                continue
            if is_valid(match[0]):
                yield match.span()
