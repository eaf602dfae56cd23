"""The options of a query, with every bound that a client could overstep."""

from server.pb.triptych.v1 import triptych_pb2 as pb
from server.query.query import PLAIN, QueryOptions, TextQuery
from server.wire.bounds import InvalidRequestError, checked_text

MAX_VIEW_WEIGHT = 1_000.0
MAX_MIN_SCORE = 1e30


def options_of(request: pb.QueryRequest) -> QueryOptions:
    """Return what a request asks beyond the plain order by score; `PLAIN` itself where that is nothing.

    Raises:
        InvalidRequestError: a field is malformed, beyond its bound, or does not go with another.
    """
    if not (
        request.explain
        or request.exact
        or request.HasField("view_weights")
        or request.HasField("min_score")
        or request.HasField("text_query")
        or request.HasField("text_query_weight")
        or request.HasField("diversity")
    ):
        return PLAIN
    weights = _view_weights(request)
    if request.WhichOneof("subject") == "vector":
        for name, asked in (("view_weights", weights != PLAIN.view_weights), ("explain", request.explain)):
            if asked:
                raise InvalidRequestError(f"{name} does not go with vector: nothing is known of its views")
    return QueryOptions(
        weights,
        _within("min_score", request.min_score, -MAX_MIN_SCORE, MAX_MIN_SCORE)
        if request.HasField("min_score")
        else None,
        _text_query(request),
        _within("diversity", request.diversity, 0.0, 1.0) if request.HasField("diversity") else 1.0,
        request.explain,
        request.exact,
    )


def _view_weights(request: pb.QueryRequest) -> tuple[float, float, float]:
    """Return the weights of H, T and S; three zeros, as a message without fields has, mean none."""
    given = request.view_weights
    weights = (
        _within("view_weights.history", given.history, 0.0, MAX_VIEW_WEIGHT),
        _within("view_weights.text", given.text, 0.0, MAX_VIEW_WEIGHT),
        _within("view_weights.social", given.social, 0.0, MAX_VIEW_WEIGHT),
    )
    return weights if any(weights) else PLAIN.view_weights


def _text_query(request: pb.QueryRequest) -> TextQuery | None:
    if not request.HasField("text_query"):
        if request.HasField("text_query_weight"):
            raise InvalidRequestError(
                f"text_query_weight is {request.text_query_weight}, but there is no text_query"
            )
        return None
    text = checked_text("text_query", request.text_query)
    if not request.HasField("text_query_weight"):
        return TextQuery(text)
    return TextQuery(text, _within("text_query_weight", request.text_query_weight, 0.0, 1.0))


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:  # also refuses NaN
        raise InvalidRequestError(f"{name} is {value}, not in {least:g}..{most:g}")
    return value
