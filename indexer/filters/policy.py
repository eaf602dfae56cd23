"""How a search with a filter is done: what was measured when the index was built."""

from dataclasses import dataclass
from typing import Any

from indexer.search.search_params import SearchParams


@dataclass(frozen=True)
class FilterPolicy:
    """When to compare every allowed item, and how hard to search otherwise.

    Attributes:
        scan_share: up to this share of the items allowed, all allowed ones are compared.
        efforts: for larger shares, (share, effort): the effort that reached the asked ANN recall at that
            share, in falling order of shares; empty where an exact search passes over everything instead.
    """

    scan_share: float = 1.0
    efforts: tuple[tuple[float, SearchParams], ...] = ()

    def search_params(self, allowed: int, items: int) -> SearchParams | None:
        """Return the effort of a search among so many allowed items; None where they are to be scanned."""
        share = allowed / max(1, items)
        if share <= self.scan_share:
            return None
        known = [search_params for at, search_params in self.efforts if at <= share]
        return known[0] if known else None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        efforts = [{"share": share, **search_params.as_json()} for share, search_params in self.efforts]
        return {"scan_share": self.scan_share, "efforts": efforts}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FilterPolicy":
        """Return what `as_json` wrote."""
        efforts = tuple((e["share"], SearchParams.from_json(e)) for e in values["efforts"])
        return cls(values["scan_share"], efforts)
