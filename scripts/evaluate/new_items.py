"""How well items are found that training never saw: by what is known of them besides who chose them."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from encoder.content import combinations_of
from encoder.dataset import Dataset
from encoder.left_out import LeftOut
from encoder.progress import watched
from encoder.views import FloatArray, Matrix
from evaluation.bootstrap import ci95, paired_ci95
from evaluation.metrics import mean_over_users, ndcg, recall
from evaluation.ranking import top_k
from scripts.evaluate.protocol import KS, Evaluator, IntArray, masked_items, number, unmasked_targets

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
_K = max(KS)
_BATCH = 1_024


def new_item_figures(evaluator: Evaluator, whole: Dataset, left_out: LeftOut) -> dict[str, Any] | None:
    """Return the figures at 20 of new items: those that the model's training never saw.

    The users with a target among them are ranked by brute force, as no index has the items encoded in several
    ways; vectors are those of the exported graphs. "by_content" has, for each combination of what the model
    knows of an item, `recall`, `ndcg` and `found` (how many of the first 20 are new) over all items,
    `recall_of_known` (of the same users' other targets), `recall_among_new` where new items alone are ranked,
    and the paired `gain` over the combination before. "chance" is the expected recall of a random order.

    Args:
        evaluator: of the known items alone.
        whole: the data with the rows of new items, which are targets and masks here, and never inputs.
        left_out: what training never saw; people among it are not ranked.

    Returns:
        None where nobody has a target among the new items.
    """
    model, new = evaluator.pair.model, left_out.items
    masked = masked_items(whole, evaluator.split)
    targets = unmasked_targets(whole, evaluator.split, masked)
    of_new, of_known = (_columns(targets, rows) for rows in (new, ~new))
    users = np.flatnonzero((np.diff(of_new.indptr) > 0) & ~left_out.users)
    if not len(users):
        log.warning("new items: nobody has a target among them in split %s", evaluator.split)
        return None
    views = evaluator.views_of(users)
    vectors = model.encode_users(views).vectors
    content = model.content_encoder.encode(whole.item_content)
    figures: dict[str, Any] = {}
    before: dict[str, Floats] | None = None
    for parts in watched(combinations_of(model.content_parts), "new items", "combination"):
        shown = content.only(parts, new)
        items = model.encode_items(model.id_vectors, shown)
        ranked = _rank(vectors, items, masked[users])
        others = masked[users] + _all(~new, len(users))
        among_new = _rank(vectors, np.where(new[:, None], items, np.float32(0.0)), others)
        values = {
            "recall": recall(ranked, of_new[users], _K),
            "ndcg": ndcg(ranked, of_new[users], _K),
            "recall_among_new": recall(among_new, of_new[users], _K),
        }
        figures["+".join(parts)] = {str(_K): _means(values) | {
            "found": float(new[ranked].sum(axis=1, where=ranked >= 0).mean()),
            "recall_of_known": number(mean_over_users(recall(ranked, of_known[users], _K))),
        }}  # fmt: skip
        if before is not None:
            figures["+".join(parts)]["gain"] = {
                name: {"mean": number(mean_over_users(values[name] - before[name])),
                       "ci95": [number(end) for end in paired_ci95(values[name], before[name], seed=0)]}
                for name in values
            }  # fmt: skip
        before = values
    return {
        "items": int(new.sum()),
        "users": len(users),
        "targets": int(of_new[users].nnz),
        "chance": {str(_K): {"recall": _chance(masked[users], np.ones(len(new), bool)),
                             "recall_among_new": _chance(masked[users], new)}},
        "by_content": figures,
    }  # fmt: skip


def _means(values: dict[str, Floats]) -> dict[str, object]:
    """Return the mean of each metric over users, and its 95 % interval beside it."""
    means: dict[str, object] = {}
    for name, one in values.items():
        means[name] = number(mean_over_users(one))
        means[f"{name}_ci95"] = [number(end) for end in ci95(one, seed=0)]
    return means


def _rank(vectors: FloatArray, items: FloatArray, masked: Matrix) -> IntArray:
    """Return the rows (B, 20) of the items with the highest scores that are not masked."""
    starts = range(0, len(vectors), _BATCH)
    ranked = [top_k(vectors[s : s + _BATCH] @ items.T, masked[s : s + _BATCH], _K) for s in starts]
    return np.concatenate(ranked)


def _columns(rows: Matrix, chosen: npt.NDArray[np.bool_]) -> Matrix:
    """Return the matrix (U, N) with only some columns left."""
    kept = sparse.csr_array(rows @ sparse.diags_array(chosen.astype(np.float32)))
    kept.eliminate_zeros()
    return kept


def _all(chosen: npt.NDArray[np.bool_], users: int) -> Matrix:
    return sparse.csr_array(np.broadcast_to(chosen.astype(np.float32), (users, len(chosen))))


def _chance(masked: Matrix, ranked: npt.NDArray[np.bool_]) -> float:
    """Return the expected recall at 20 of a random order of the items `ranked` (N,) that are not masked."""
    hidden = np.diff(_columns(masked, ranked).indptr)
    return float(np.minimum(1.0, _K / np.maximum(1, ranked.sum() - hidden)).mean())
