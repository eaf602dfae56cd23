"""What a result is owed to: each view's share in its score, divided among the events, texts and friends."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from encoder.views import FloatArray, ViewBatch, unit_blocks
from server.query.query import Contribution, Explanation, QueryVector
from server.query.snapshot import Snapshot
from server.query.subject_views import SubjectViews, histories, pooled_histories, stack

_MOST = 100  # terms of a view with a name, the longest; the others count as one, so that the cost is bounded
_TEXT_CHARS = 200

TextNames = Mapping[bytes, str]  # texts by their sha256 digests


@dataclass(frozen=True)
class Sources:
    """The terms of one view, in blocks of columns in each of which they sum to length 1.

    Shapes:
        terms: (m + 1, W) float32: those with a name, longest first, then the sum of all others, often zero.
        lengths: (m + 1,) float32 of the terms, and portions: (m + 1,) float32 of them along the view, which
            sum to 1; both are means over the blocks.
    """

    names: list[str]
    widths: tuple[int, ...]
    terms: FloatArray
    lengths: FloatArray
    portions: FloatArray

    @classmethod
    def of(cls, names: Sequence[str], terms: FloatArray, widths: tuple[int, ...]) -> "Sources | None":
        """Return the terms (m, W) of a view, at any common scale, by name; None where they sum to nothing."""
        blocks = []
        for block in np.split(terms.astype(np.float64), np.cumsum(widths)[:-1], axis=1):
            norm = np.linalg.norm(block.sum(axis=0))
            blocks.append(block / norm if norm > 0 else np.zeros_like(block))
        lengths = _lengths(blocks)
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        if not len(order):
            return None
        named, rest = order[:_MOST], order[_MOST:]
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
    snapshot: Snapshot, asked: SubjectViews, stored_texts: TextNames
) -> tuple[Sources | None, Sources | None, Sources | None]:
    """Return what H, T and S of a subject are the sums of, None for a view that is not there.

    Stored texts that `stored_texts` lacks, because they went meanwhile, have the name "".
    """
    return _items(snapshot, asked), _texts(snapshot, asked, stored_texts), _friends(snapshot, asked)


def by_digest(texts: Sequence[str]) -> dict[bytes, str]:
    """Return texts by the digests that the state of users has of them."""
    return {hashlib.sha256(text.encode()).digest(): text for text in texts}


def _items(snapshot: Snapshot, asked: SubjectViews) -> Sources | None:
    matrix, model = histories(snapshot, asked), snapshot.model
    if matrix is None or not matrix.indptr[1]:
        return None
    own = matrix[[0]]
    names = model.item_ids.take(own.indices).to_pylist()
    return Sources.of(names, own.data[:, None] * model.table[own.indices], _widths(snapshot))


def _texts(snapshot: Snapshot, asked: SubjectViews, stored: TextNames) -> Sources | None:
    model_id, dim = snapshot.encoder.text_model_id, snapshot.encoder.dim
    vectors, found = snapshot.cache.get(model_id, asked.person.texts, dim)
    encoded = [digest for digest, there in zip(asked.person.texts, found, strict=True) if there]
    names = [*(stored.get(digest, "") for digest in encoded), *asked.texts]
    if not names:
        return None
    vectors = vectors[found]
    if asked.texts:
        vectors = np.concatenate([vectors, snapshot.text_vectors(asked.texts, keep=asked.keep)])
    return Sources.of([name[:_TEXT_CHARS] for name in names], vectors, (dim,))


def _friends(snapshot: Snapshot, asked: SubjectViews) -> Sources | None:
    person = asked.person
    if not person.friends:
        return None
    pooled, _ = pooled_histories(snapshot, asked)
    terms = np.log1p(person.weights)[:, None] * pooled[1:]  # as `social_view`
    return Sources.of(person.friends, terms, _widths(snapshot))


def _lengths(blocks: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return the lengths (m,) of rows in blocks (m, W_b), their mean over the blocks that are not zero."""
    there = [np.linalg.norm(block, axis=1) for block in blocks if block.any()]
    return np.mean(there, axis=0) if there else np.zeros(len(blocks[0]))


def _widths(snapshot: Snapshot) -> tuple[int, ...]:
    return snapshot.model.widths or (snapshot.model.table.shape[1],)


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
