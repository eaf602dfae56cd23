"""Replace personal numbers and addresses in a text, by kind."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from store.masking.spans import Recogniser, Span

# In the order in which they are looked for: what one finds is nothing else.
KINDS = ("email", "iban", "card", "identity", "ip", "phone")
# Full-width characters stand for the plain ones, of the same number.
_PLAIN = {0xFF01 + offset: 0x21 + offset for offset in range(94)}
_PLAIN[0x3000] = 0x20


class UnknownMaskingError(ValueError):
    """A kind or a region of masking is unknown."""

    def __init__(self, what: str, value: str, known: Iterable[str]) -> None:
        super().__init__(f"{what} of masking {value!r} is none of {', '.join(sorted(known))}")
        self.value = value


class MaskedText(NamedTuple):
    """A text after masking, and how many things of each kind were replaced in it."""

    text: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Masking:
    """What is masked in the texts of people.

    Attributes:
        kinds: of KINDS; none by default.
        regions: two letters each, of the countries whose telephone numbers are found without their code.

    Raises:
        UnknownMaskingError: a kind or region is unknown.
    """

    kinds: tuple[str, ...] = ()
    regions: tuple[str, ...] = ("CN", "US", "GB")

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise UnknownMaskingError("kind", kind, KINDS)
        if "phone" in self.kinds:
            from store.masking.phones import REGIONS  # noqa: PLC0415

            for region in self.regions:
                if region not in REGIONS:
                    raise UnknownMaskingError("region", region, REGIONS)

    @classmethod
    def named(cls, kinds: str, regions: str = "CN,US,GB") -> "Masking":
        """Read kinds, or all, and regions, with commas.  Raises: UnknownMaskingError."""
        some, countries = (
            tuple(word for part in words.split(",") if (word := part.strip())) for words in (kinds, regions)
        )
        return cls(KINDS if some == ("all",) else some, countries)

    def joined(self, other: "Masking") -> "Masking":
        """Return what is masked by either of two, by the regions of the other one."""
        kinds = tuple(kind for kind in KINDS if kind in self.kinds + other.kinds)
        return Masking(kinds, other.regions)


UNMASKED = Masking()


class Masker:
    """Replaces what it is to mask, each by the name of its kind in brackets; threads may share it."""

    def __init__(self, masking: Masking) -> None:
        self._recognisers = [(kind, _recogniser(kind, masking)) for kind in KINDS if kind in masking.kinds]

    def __bool__(self) -> bool:
        return bool(self._recognisers)

    def find(self, text: str) -> list[tuple[Span, str]]:
        """Find what is to be masked, with its kind, in the order of the text; nothing overlaps."""
        plain = text.translate(_PLAIN)
        found: list[tuple[Span, str]] = []
        if not any(char in "@:" or char.isdecimal() for char in plain):
            return found
        for kind, recognise in self._recognisers:
            for start, end in recognise(plain):
                if all(end <= first or last <= start for (first, last), _ in found):
                    found.append(((start, end), kind))
        return sorted(found)

    def mask(self, text: str) -> MaskedText:
        """Replace what is found; a text in which nothing is found is returned as it is."""
        found = self.find(text)
        if not found:
            return MaskedText(text, {})
        pieces, at = [], 0
        for (start, end), kind in found:
            pieces += [text[at:start], f"[{kind}]"]
            at = end
        return MaskedText("".join([*pieces, text[at:]]), Counter(kind for _, kind in found))


def _recogniser(kind: str, masking: Masking) -> Recogniser:
    """Return what finds a kind; loaded where it is wanted, because the tables of numbers are large."""
    if kind in ("email", "ip"):
        from store.masking.addresses import emails, ip_addresses  # noqa: PLC0415

        return emails if kind == "email" else ip_addresses
    if kind in ("card", "iban"):
        from store.masking.accounts import cards, ibans  # noqa: PLC0415

        return cards if kind == "card" else ibans
    if kind == "identity":
        from store.masking.identity_numbers import identity_numbers  # noqa: PLC0415

        return identity_numbers
    from store.masking.phones import phones  # noqa: PLC0415

    return partial(phones, regions=masking.regions)
