"""One person's raw views as a batch of one; the same arithmetic as in training (encoder.views)."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from encoder.views import ViewBatch, event_matrix, history_view, social_view, text_sums, unit_rows, view_batch
from server.serving import Serving
from store.records import UserViews


def raw_views(serving: Serving, views: UserViews, *, keep: bool) -> ViewBatch:
    """Return the views of one person.

    Args:
        serving: whose item table and language model to use.
        views: the person and the friends, with their visible histories.
        keep: whether vectors of texts seen for the first time stay in the cache.
    """
    histories = [views.history, *(friend.history for friend in views.friends)]
    owners = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    events = [event for history in histories for event in history]
    rows = [serving.model_row_of.get(event.item_id, -1) for event in events]
    matrix = event_matrix(
        owners,
        np.array(rows, dtype=np.int64),
        np.array([event.action for event in events], dtype=np.str_),
        np.array([event.weight for event in events], dtype=np.float64),
        (len(histories), len(serving.model.item_ids)),
        serving.model.config,
    )  # (1 + F, N)
    pooled = history_view(matrix, serving.model.table)  # (1 + F, D_H)
    ties = sparse.csr_array(np.array([[friend.weight for friend in views.friends]], dtype=np.float64))
    vectors = serving.text_vectors(views.texts, keep=keep)  # (n, D_T)
    text = unit_rows(text_sums(np.zeros(len(vectors), dtype=np.int64), vectors, 1))
    return view_batch(pooled[:1], text, social_view(ties, pooled[1:]))


def stack(batches: Sequence[ViewBatch]) -> ViewBatch:
    """Return several batches as one, in order."""
    return ViewBatch(
        *(
            np.concatenate([getattr(b, name) for b in batches])
            for name in ("history", "text", "social", "present")
        )
    )
