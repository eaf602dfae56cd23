"""Messages of a prediction to records and back, with every bound that a client could overstep."""

import numpy as np

from encoder.heads import Quantity, Task
from encoder.heads.places import FIRST
from indexer.filters import Filter
from server.query import Prediction, Question
from server.status import InvalidRequestError
from server.wire.packed import VIEW_OF
from server.wire.query import DEFAULT_K, MAX_K, checked_id, user_of
from triptych_client.pb.v1 import triptych_pb2 as pb

MAX_PREDICTED = 1_000
_TASK_OF: dict[int, Task] = {pb.HEAD_CLICK: "click", pb.HEAD_RATING: "rating", pb.HEAD_CATEGORY: "category"}
_HEAD_OF = {task: head for head, task in _TASK_OF.items()}
_QUANTITY_OF: dict[Quantity, "pb.Quantity.ValueType"] = {
    "probability": pb.QUANTITY_PROBABILITY,
    "score": pb.QUANTITY_SCORE,
    "rating": pb.QUANTITY_RATING,
}


def question_of(request: pb.PredictRequest, visible: Filter | None = None) -> Question:
    """Translate the request of one prediction, whose caller may see some items only.

    Raises:
        InvalidRequestError: a field is missing, malformed, beyond its bound or does not go with the head.
    """
    subject, task = user_of(request), _task(request)
    if request.k > MAX_K:
        raise InvalidRequestError(f"k is {request.k}, not in 1..{MAX_K}", "k")
    n_items, n_positions = len(request.item_ids), len(request.positions)
    if task == "category":
        for name, count in (("item_ids", n_items), ("positions", n_positions)):
            if count:
                raise InvalidRequestError(f"{name} do not go with HEAD_CATEGORY", name)
    elif not 1 <= n_items <= MAX_PREDICTED:
        raise InvalidRequestError(f"item_ids has {n_items} entries, not 1..{MAX_PREDICTED}", "item_ids")
    elif request.k:
        raise InvalidRequestError(f"k is {request.k}, but goes with HEAD_CATEGORY only", "k")
    if n_positions and task != "click":
        raise InvalidRequestError("positions go with HEAD_CLICK only", "positions")
    if n_positions not in (0, n_items):
        raise InvalidRequestError(f"positions has {n_positions} entries for {n_items} item_ids", "positions")
    ids = tuple(checked_id(f"item_ids[{i}]", item_id) for i, item_id in enumerate(request.item_ids))
    positions = np.array(request.positions or [FIRST] * n_items, dtype=np.int64)
    return Question(subject, task, ids, positions, request.k or DEFAULT_K, visible, request.min_commit)


def predict_reply(prediction: Prediction) -> pb.PredictResponse:
    """Translate a prediction to packed parallel arrays."""
    of_items = prediction.task != "category"
    return pb.PredictResponse(
        item_ids=prediction.names if of_items else (),
        categories=() if of_items else prediction.names,
        values=prediction.values.tolist(),
        head=_HEAD_OF[prediction.task],  # type: ignore[arg-type]
        quantity=_QUANTITY_OF[prediction.quantity],
        label=prediction.label,
        views_used=[VIEW_OF[view] for view in prediction.views_used],
        model_id=prediction.model_id,
        index_id=prediction.index_id,
    )


def _task(request: pb.PredictRequest) -> Task:
    if request.head == pb.HEAD_UNSPECIFIED:
        return "click" if request.item_ids else "category"
    if request.head not in _TASK_OF:
        raise InvalidRequestError(
            f"head is {request.head}, which is none of HEAD_CLICK, _RATING, _CATEGORY", "head"
        )
    return _TASK_OF[request.head]
