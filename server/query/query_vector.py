"""What a query searches for: the weighted parts of the views, and a text that is searched for beside them."""

from dataclasses import dataclass

import numpy as np

from encoder.config import VIEWS
from server.query.query import FloatArray, Query, QueryOptions, RawVector


@dataclass(frozen=True)
class QueryVector:
    """The vector of one query.

    Shapes:
        vector: (D,) float32.
        parts: (3, D) float32 of H, T, S, or (4, D) with that of the text query; they sum to `vector`. None
            where a raw vector is in it, whose parts nobody knows.
        scale: (3,) float32, times which the model's own parts stand in `parts`.
    """

    vector: FloatArray
    parts: FloatArray | None
    scale: FloatArray

    @property
    def used(self) -> tuple[str, ...]:
        """The views with a part in the vector."""
        if self.parts is None:
            return ()
        return tuple(view for view, part in zip(VIEWS, self.parts, strict=False) if part.any())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to search for, so that popularity must answer."""
        return self.parts is not None and not self.parts.any()


_ONE = np.ones(len(VIEWS), dtype=np.float32)


def query_vector_of(
    query: Query, vector: FloatArray, parts: FloatArray, text: FloatArray | None
) -> QueryVector:
    """Return what a query searches for.

    Each part is multiplied by its view's weight. With a text query of weight w the sum is multiplied by
    1 − w, and w times the vector of that text alone is added. As with the gates of views, what is not there
    (a subject without any view, a text that says nothing to the model) leaves all of the weight to the other.

    Args:
        query: its options, and whether its subject is a raw vector.
        vector: (D,) the user vector, or the raw vector.
        parts: (3, D) which sum to the user vector; of no account for a raw vector.
        text: (D,) the vector of the text query, None where there is none.
    """
    raw = isinstance(query.subject, RawVector)
    if query.options.view_weights == QueryOptions.view_weights and text is None:
        return QueryVector(vector, None if raw else parts, _ONE)
    scale = np.array(query.options.view_weights, dtype=np.float32)
    weighted = parts * scale[:, None]
    if text is None or query.options.text_query is None:
        return QueryVector(weighted.sum(axis=0), weighted, scale)
    there = vector.any() if raw else weighted.any()
    asked = query.options.text_query.weight * bool(text.any())
    share = np.float32(asked if there or not asked else 1.0)
    rest = np.float32(1.0) - share
    if raw:
        return QueryVector(rest * vector + share * text, None, scale)
    blended = np.concatenate([rest * weighted, share * text[None]])
    return QueryVector(blended.sum(axis=0), blended, rest * scale)
