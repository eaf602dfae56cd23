"""Records to wire messages."""

from uuid import uuid4

import numpy as np

from encoder.config import VIEWS
from server.pb.triptych.v1 import triptych_pb2 as pb
from server.query.query import Candidates, EncodedUser, Explanation, FloatArray
from server.status import Failure

_VIEW_OF = {"H": pb.VIEW_HISTORY, "T": pb.VIEW_TEXT, "S": pb.VIEW_SOCIAL}


def query_reply(found: Candidates) -> pb.QueryResponse:
    """Return candidates as packed parallel arrays."""
    shares = [_packed(found.shares, i) for i in range(len(VIEWS) + 1)]
    return pb.QueryResponse(
        item_ids=[] if found.people else found.item_ids,
        user_ids=found.item_ids if found.people else [],
        scores=found.scores.tolist(),
        history_shares=shares[0],
        text_shares=shares[1],
        social_shares=shares[2],
        query_shares=shares[3],
        prior_shares=found.prior.tolist() if found.prior is not None else [],
        views_used=[_VIEW_OF[view] for view in found.views_used],
        fallback=pb.FALLBACK_POPULARITY if found.fallback else pb.FALLBACK_NONE,
        exact=found.exact,
        query_id=uuid4().hex,
        model_id=found.model_id,
        index_id=found.index_id,
        timings=pb.Timings(
            views_ms=found.timings.views_ms,
            encode_ms=found.timings.encode_ms,
            search_ms=found.timings.search_ms,
        ),
        explanations=[_explanation(one) for one in found.explanations],
    )


def stream_reply(outcome: Candidates | Failure) -> pb.QueryStreamResponse:
    """Return candidates, or why there are none, as the reply to one request of a stream."""
    if isinstance(outcome, Failure):
        error = pb.QueryError(code=outcome.code, reason=outcome.reason, message=outcome.message)
        return pb.QueryStreamResponse(error=error)
    return pb.QueryStreamResponse(response=query_reply(outcome))


def encode_reply(user: EncodedUser) -> pb.EncodeUserResponse:
    """Return a user vector and its parts; an absent view's part is empty."""
    parts = [pb.Vector(values=part.tolist() if part.any() else []) for part in user.parts]
    return pb.EncodeUserResponse(
        vector=pb.Vector(values=user.vector.tolist()),
        history_part=parts[0],
        text_part=parts[1],
        social_part=parts[2],
        views_used=[_VIEW_OF[view] for view in user.views_used],
        model_id=user.model_id,
    )


def _packed(shares: FloatArray | None, view: int) -> list[float]:
    if shares is None or view >= shares.shape[1] or not np.any(shares[:, view]):
        return []
    column: list[float] = shares[:, view].tolist()
    return column


def _explanation(one: Explanation) -> pb.Explanation:
    events, texts, friends = (
        [pb.Contribution(name=source.name, value=source.value) for source in sources] for sources in one
    )
    return pb.Explanation(events=events, texts=texts, friends=friends)
