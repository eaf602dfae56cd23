"""What a view is the sum of: a term for each item of a history, each text, each friend."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder.views import FloatArray
from server.query.snapshot import Snapshot
from server.query.subject_views import SubjectViews, histories, pooled_histories

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
