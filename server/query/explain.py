"""What a result is owed to: each view's share in its score, divided among the events, texts and friends."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from encoder.views import FloatArray, ViewBatch, unit_blocks
from server.query.query import Contribution, Explanation
from server.query.query_vector import QueryVector
from server.query.snapshot import Snapshot
from server.query.sources import Sources, TextNames, sources_of
from server.query.subject_views import SubjectViews, stack

_LISTED = 3
_FIELDS = ("history", "text", "social")  # of a ViewBatch, in the order H, T, S


def explained(
    snapshot: Snapshot,
    asked: SubjectViews,
    views: ViewBatch,
    query_vector: QueryVector,
    vectors: FloatArray,
    shares: FloatArray,
    stored_texts: TextNames,
) -> tuple[Explanation, ...]:
    """Return what contributed most to each of n results.

    A view is a sum of terms, one for each item, text or friend. The contribution of a term is its length
    times the score that it would bring alone in place of the view, all else equal, plus its portion of what
    all these leave of the view's share, which is nothing where the tower is linear. So the contributions of
    all terms of a view sum to its share.

    Args:
        snapshot: what answered.
        asked: the subject.
        views: its raw views.
        query_vector: what was searched for; not a raw vector.
        vectors: (n, D) of the results.
        shares: (n, 3) or (n, 4) of the views in their scores.
        stored_texts: the subject's stored texts.
    """
    listed: list[Sequence[tuple[Contribution, ...]]] = [[()] * len(vectors) for _ in _FIELDS]
    sources = {
        i: one
        for i, one in enumerate(sources_of(snapshot, asked, stored_texts))
        if one is not None and query_vector.parts is not None and query_vector.parts[i].any()
    }
    if sources:
        alone = stack([_each_alone(views, i, one) for i, one in sources.items()])
        parts = snapshot.model.encode_users(alone).parts
        start = 0
        for i, one in sources.items():
            end = start + len(one.terms)
            scores = parts[start:end, i] * query_vector.scale[i] @ vectors.T  # (m + 1, n)
            start = end
            raw = one.lengths[:, None] * scores
            values = raw + one.portions[:, None] * (shares[:, i] - raw.sum(axis=0))
            listed[i] = [_greatest(one.names, column) for column in values[:-1].T]
    return tuple(zip(*listed, strict=True))


def _each_alone(views: ViewBatch, view: int, sources: Sources) -> ViewBatch:
    """Return the views of one subject (m + 1) times, each with one term in place of one view."""
    rows = views.rows(np.zeros(len(sources.terms), dtype=np.int64))
    return replace(rows, **{_FIELDS[view]: unit_blocks(sources.terms, sources.widths)})


def _greatest(names: list[str], values: FloatArray) -> tuple[Contribution, ...]:
    best = np.argsort(-values, kind="stable")[:_LISTED]
    return tuple(Contribution(names[row], float(values[row])) for row in best.tolist() if names[row])
