"""Find e-mail and IP addresses in a text."""

import ipaddress
import re
from collections.abc import Iterator

from store.masking.spans import NOT_BEFORE, Span

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9](?:[A-Za-z0-9._%+'-]{0,63})@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
_IPV4 = re.compile(NOT_BEFORE + r"(?<![0-9]\.)\d{1,3}(?:\.\d{1,3}){3}(?![0-9A-Za-z]|\.\d)")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])")
_LEAST_GROUPS = 3  # of hexadecimal digits: "::" and "a::b" are more often code than addresses
_VERSION = re.compile(
    r"(?:\bv|\bversion|\bver\.?|\brelease|\bbuild|版本|版本号|固件)\s*[:：]?\s*$", re.IGNORECASE
)


def emails(text: str) -> Iterator[Span]:
    """Find e-mail addresses."""
    return (match.span() for match in _EMAIL.finditer(text)) if "@" in text else iter(())


def ip_addresses(text: str) -> Iterator[Span]:
    """Find IP addresses of both versions; four numbers behind a word for a version are none."""
    for match in _IPV4.finditer(text):
        if _is_address(match[0]) and not _VERSION.search(text[max(0, match.start() - 16) : match.start()]):
            yield match.span()
    for match in _IPV6.finditer(text):
        groups = sum(1 for group in match[0].split(":") if group)
        if groups >= _LEAST_GROUPS and _is_address(match[0]):
            yield match.span()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
