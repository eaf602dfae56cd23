"""The search of an index, exact or through FAISS.

`search.Searchable` takes candidates of the main part, drops what the filter and the exclusions mask, and
merges the appended rows. Candidates come from `exact`, which compares vectors, or from what fulfils
`allowed.CandidateSearch`, such as `ann`, FAISS with tuned search parameters; `exact.scores_of` computes every
score that is returned. `gpu` puts FAISS on graphics cards. `filter_cache` remembers which rows a filter
allows, and `lists` chooses what is compared of them in an IVF.
"""

from indexer.search.allowed import ALL_ALLOWED, Allowed, CandidateSearch, bits_of
from indexer.search.ann import (
    EXACT,
    AnnIndex,
    FilterPolicy,
    SearchParams,
    code_width,
    open_ann,
    open_shards,
)
from indexer.search.exact import (
    Searched,
    best_of_all,
    best_of_masked,
    best_of_parts,
    best_of_some,
    scores_of,
)
from indexer.search.filter_cache import FilterCache
from indexer.search.gpu import cagra_graph, gpus, has_cuvs, inner_of, to_cpu, to_gpu
from indexer.search.lists import Bits, Portions
from indexer.search.search import Exclusions, Searchable, best_by_id

__all__ = [
    "ALL_ALLOWED",
    "EXACT",
    "Allowed",
    "AnnIndex",
    "Bits",
    "CandidateSearch",
    "Exclusions",
    "FilterCache",
    "FilterPolicy",
    "Portions",
    "SearchParams",
    "Searchable",
    "Searched",
    "best_by_id",
    "best_of_all",
    "best_of_masked",
    "best_of_parts",
    "best_of_some",
    "bits_of",
    "cagra_graph",
    "code_width",
    "gpus",
    "has_cuvs",
    "inner_of",
    "open_ann",
    "open_shards",
    "scores_of",
    "to_cpu",
    "to_gpu",
]
