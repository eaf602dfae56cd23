"""One person's raw views as a batch of one; the same arithmetic as in training (encoder.views)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy import sparse

from encoder.rows import NO_TIME, Actions, Events
from encoder.views import (
    FloatArray,
    ViewBatch,
    event_matrix,
    history_view,
    social_view,
    unit_rows,
    view_batch,
)
from server.serving import Serving
from store.records import Event, UserViews

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def raw_views(serving: Serving, views: UserViews, *, keep: bool) -> ViewBatch:
    """Return the views of one person.

    Args:
        serving: whose item table and language model to use.
        views: the person and the friends, with their visible histories.
        keep: whether vectors of texts seen for the first time stay in the cache.
    """
    friends = views.friends
    pooled, known = _pooled(serving, [views.history, *(friend.history for friend in friends)])  # (1 + F, D_H)
    text = np.zeros((1, serving.encoder.dim), dtype=np.float32)
    if views.texts:
        # As `text_sums` of one user, to the last bit.
        text = serving.text_vectors(views.texts, keep=keep).sum(axis=0, keepdims=True)
    social = np.zeros_like(pooled[:1])
    if friends:
        weights = np.array([friend.weight for friend in friends], dtype=np.float64)
        # Built from its parts: a matrix this small costs less to multiply than to convert.
        ties = sparse.csr_array((weights, np.arange(len(friends)), [0, len(friends)]), (1, len(friends)))
        social = social_view(ties, pooled[1:], serving.model.widths)
    counts = np.array([[known, len(views.texts), len(friends)]])
    return view_batch(pooled[:1], unit_rows(text), social, counts)


def _pooled(serving: Serving, histories: list[tuple[Event, ...]]) -> tuple[FloatArray, int]:
    """Return pooled histories (len(histories), D_H) float32, zero for an empty one, and the first's items."""
    events = [event for history in histories for event in history]
    table = serving.model.table
    if not events:
        return np.zeros((len(histories), table.shape[1]), dtype=np.float32), 0
    rows = [serving.model_row_of.get(event.item_id, -1) for event in events]
    columns = Events(
        np.repeat(np.arange(len(histories)), [len(history) for history in histories]),
        np.array(rows, dtype=np.int64),
        Actions.of(event.action for event in events),
        np.array([event.weight for event in events], dtype=np.float64),
        np.array([_microseconds(event.ts) for event in events], dtype=np.int64),
    )
    matrix = event_matrix(columns, (len(histories), len(table)), serving.model.config)  # (1 + F, N)
    return history_view(matrix, table, serving.model.widths), int(matrix.indptr[1])


def _microseconds(ts: datetime | None) -> int:
    """Return a time as training has it; a time without a zone is UTC."""
    if ts is None:
        return NO_TIME
    aware = ts if ts.tzinfo else ts.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def stack(batches: Sequence[ViewBatch]) -> ViewBatch:
    """Return several batches as one, in order."""
    return ViewBatch(
        *(
            np.concatenate([getattr(b, name) for b in batches])
            for name in ("history", "text", "social", "amounts")
        )
    )
