"""How much a search looks at, and how FAISS is told so."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import faiss

from indexer.search.gpu import is_cagra

_FAISS: Any = faiss  # its stubs lack what SWIG adds
_LEAST_BEFORE = 30


@dataclass(frozen=True)
class SearchParams:
    """How much a search looks at.

    Attributes:
        probes: lists of an IVF (nprobe) or candidates of a graph (efSearch); other kinds have none.
        refine: candidates per result asked for, of which the best by exact score stay.
        least: candidates, however few results are asked for; what codes lose hurts a short list most.
    """

    probes: int = 1
    refine: int = 1
    least: int = 0

    def looked_at(self, count: int) -> int:
        """Return the candidates of a search for `count` results."""
        return max(count * self.refine, self.least)

    def times(self, factor: int) -> "SearchParams":
        """Return it with so many times the probes."""
        return self if factor == 1 else replace(self, probes=self.probes * factor)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SearchParams":
        """Return what `as_json` wrote, other keys beside it or not.

        Indexes of the first versions do not say `least`: they were tuned with as many as this.
        """
        probes, refine = values["probes"], values["refine"]
        return cls(probes, refine, values.get("least", _LEAST_BEFORE * refine if refine > 1 else 0))

    def as_json(self) -> dict[str, int]:
        """Return it as plain JSON values."""
        return asdict(self)


def parameters(index: Any, search_params: SearchParams, selector: Any) -> Any:
    """Return the search parameters for an index, on a card or not; None where it takes none.

    For a CAGRA graph on a card it is the width, since its parameters hang on the number of results, too.

    Raises:
        RuntimeError: the kind takes no selector; FAISS raises this as well.
    """
    kind = faiss.downcast_index(index)
    if is_cagra(kind):
        if selector is not None:
            raise RuntimeError("a CAGRA graph on a card takes no filter")
        return search_params.probes
    given = {} if selector is None else {"sel": selector}
    if isinstance(kind, faiss.IndexPreTransform):
        inner = parameters(kind.index, search_params, selector)
        return _FAISS.SearchParametersPreTransform(index_params=inner)
    if hasattr(kind, "nlist"):
        return _FAISS.SearchParametersIVF(nprobe=search_params.probes, **given)
    if isinstance(kind, faiss.IndexHNSW):
        return _FAISS.SearchParametersHNSW(efSearch=search_params.probes, **given)
    return _FAISS.SearchParameters(**given) if given else None
