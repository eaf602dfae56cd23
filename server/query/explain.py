"""Explanations: each view's share in a score, divided among the events, texts and friends in that view."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from encoder.views import FloatArray, ViewBatch, unit_blocks
from server.query.query import Contribution, Explanation, QueryVector
from server.query.snapshot import Snapshot
from server.query.subject_views import SubjectViews, histories, pooled_histories, stack

_MAX_TERMS = 100  # of a view, the longest; the others are summed into one, so that the cost is bounded
_LISTED = 3
_TEXT_CHARS = 200
_FIELDS = ("history", "text", "social")  # of a ViewBatch, in the order H, T, S

TextNames = Mapping[bytes, str]  # texts by their sha256 digests


@dataclass(frozen=True)
class Sources:
    """The terms that one view is the sum of, in blocks of columns; in each block the sum has length 1.

    Shapes:
        names: m of the terms, each of an item, a text or a friend.
        widths: columns of each block; they sum to W.
        terms: (m + 1, W) float32: those with a name, longest first, then the sum of all others, often zero.
        lengths: (m + 1,) float32 of the terms, the mean over the blocks.
        portions: (m + 1,) float32, projections of the terms onto the view, the mean over the blocks; they
            sum to 1.
    """

    names: list[str]
    widths: tuple[int, ...]
    terms: FloatArray
    lengths: FloatArray
    portions: FloatArray

    @classmethod
    def of(cls, names: Sequence[str], terms: FloatArray, widths: tuple[int, ...]) -> "Sources | None":
        """Scale and sort the named terms (n, W) of a view; None where all of them are zero."""
        blocks = []
        for block in np.split(terms.astype(np.float64), np.cumsum(widths)[:-1], axis=1):
            norm = np.linalg.norm(block.sum(axis=0))
            blocks.append(block / norm if norm > 0 else np.zeros_like(block))
        lengths = _lengths(blocks)
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        if not len(order):
            return None
        named, rest = order[:_MAX_TERMS], order[_MAX_TERMS:]
        blocks = [np.vstack([block[named], block[rest].sum(axis=0)]) for block in blocks]
        portions = np.mean([block @ block.sum(axis=0) for block in blocks if block.any()], axis=0)
        return cls(
            [names[row] for row in named.tolist()],
            widths,
            np.concatenate(blocks, axis=1).astype(np.float32),
            _lengths(blocks).astype(np.float32),
            portions.astype(np.float32),
        )


def sources_of(
    snapshot: Snapshot, subject_views: SubjectViews, stored_texts: TextNames
) -> tuple[Sources | None, Sources | None, Sources | None]:
    """Return the sources of H, T and S of a subject, None for an absent view.

    Stored texts that `stored_texts` lacks, because they were deleted meanwhile, have the name "".
    """
    return (
        _items(snapshot, subject_views),
        _texts(snapshot, subject_views, stored_texts),
        _friends(snapshot, subject_views),
    )


def by_digest(texts: Iterable[str]) -> dict[bytes, str]:
    """Return texts by their sha256 digests, which the state of users holds in their place."""
    return {hashlib.sha256(text.encode()).digest(): text for text in texts}


def _items(snapshot: Snapshot, subject_views: SubjectViews) -> Sources | None:
    matrix, model = histories(snapshot, subject_views), snapshot.model
    if matrix is None or not matrix.indptr[1]:
        return None
    history = matrix[[0]]  # (1, N), of the subject without its friends
    names = model.item_ids.take(history.indices).to_pylist()
    return Sources.of(names, history.data[:, None] * model.table[history.indices], _widths(snapshot))


def _texts(snapshot: Snapshot, subject_views: SubjectViews, stored_texts: TextNames) -> Sources | None:
    dim = snapshot.encoder.dim
    digests, texts = subject_views.record.texts, subject_views.texts
    vectors, cached = snapshot.stored_text_vectors([subject_views.record])
    names = [stored_texts.get(digests[place], "") for place in np.flatnonzero(cached).tolist()]
    names += texts
    if not names:
        return None
    vectors = vectors[cached]
    if texts:
        vectors = np.concatenate([vectors, snapshot.text_vectors(texts, keep=subject_views.keep)])
    return Sources.of([name[:_TEXT_CHARS] for name in names], vectors, (dim,))


def _friends(snapshot: Snapshot, subject_views: SubjectViews) -> Sources | None:
    record = subject_views.record
    if not record.friends:
        return None
    pooled = pooled_histories(snapshot, subject_views)
    terms = np.log1p(record.weights)[:, None] * pooled[1:]  # as `social_view`
    return Sources.of(record.friends, terms, _widths(snapshot))


def _lengths(blocks: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return the lengths (m,) of rows in blocks (m, W_b), their mean over the blocks that are not zero."""
    lengths = [np.linalg.norm(block, axis=1) for block in blocks if block.any()]
    return np.mean(lengths, axis=0) if lengths else np.zeros(len(blocks[0]))


def _widths(snapshot: Snapshot) -> tuple[int, ...]:
    return snapshot.model.widths or (snapshot.model.table.shape[1],)


def explained(
    snapshot: Snapshot,
    subject_views: SubjectViews,
    views: ViewBatch,
    query_vector: QueryVector,
    vectors: FloatArray,
    shares: FloatArray,
    stored_texts: TextNames,
) -> tuple[Explanation, ...]:
    """Name the sources that contributed most to each of n scores.

    A view is a sum of terms, one for each item, text or friend. The contribution of a term is its length
    times the score that it would have alone in place of the view, all else equal, plus its portion of what
    the sum of these leaves of the view's share, which is zero where the tower is linear. So the contributions
    of all terms of a view sum to its share.

    Args:
        snapshot: what the candidates come from.
        subject_views: what the subject's raw views are made of.
        views: its raw views, a batch of one.
        query_vector: what was searched for; not a raw vector.
        vectors: (n, D) of the candidates.
        shares: (n, 3) or (n, 4) of the views in their scores.
        stored_texts: the subject's stored texts.
    """
    listed: list[Sequence[tuple[Contribution, ...]]] = [[()] * len(vectors) for _ in _FIELDS]
    sources_of_view = {
        i: sources
        for i, sources in enumerate(sources_of(snapshot, subject_views, stored_texts))
        if sources is not None and query_vector.parts is not None and query_vector.parts[i].any()
    }
    if sources_of_view:
        alone = stack([_each_alone(views, i, sources) for i, sources in sources_of_view.items()])
        parts = snapshot.model.encode_users(alone).parts
        start = 0
        for i, sources in sources_of_view.items():
            end = start + len(sources.terms)
            scores = parts[start:end, i] * query_vector.scale[i] @ vectors.T  # (m + 1, n)
            start = end
            products = sources.lengths[:, None] * scores
            values = products + sources.portions[:, None] * (shares[:, i] - products.sum(axis=0))
            listed[i] = [_greatest(sources.names, column) for column in values[:-1].T]
    return tuple(zip(*listed, strict=True))


def _each_alone(views: ViewBatch, view: int, sources: Sources) -> ViewBatch:
    """Repeat the views of one subject m + 1 times, each with one term in place of one view."""
    rows = views.rows(np.zeros(len(sources.terms), dtype=np.int64))
    return replace(rows, **{_FIELDS[view]: unit_blocks(sources.terms, sources.widths)})


def _greatest(names: list[str], values: FloatArray) -> tuple[Contribution, ...]:
    best = np.argsort(-values, kind="stable")[:_LISTED]
    return tuple(Contribution(names[row], float(values[row])) for row in best.tolist() if names[row])
