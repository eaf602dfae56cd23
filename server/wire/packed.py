"""The reply of a query as bytes: numbers are copied from arrays, which protobuf would take one by one."""

from itertools import count
from secrets import token_hex

import numpy as np

from server.query import Candidates, Explanation, Target
from triptych_client.pb.v1 import triptych_pb2 as pb

_FIELDS = pb.QueryResponse.DESCRIPTOR.fields_by_name
_LENGTH_DELIMITED = 2  # the wire type of packed numbers and of messages
VIEW_OF = {"H": pb.VIEW_HISTORY, "T": pb.VIEW_TEXT, "S": pb.VIEW_SOCIAL}


def _varint(value: int) -> bytes:
    """Encode a number, 7 bits a byte, lowest first.  Source: the protobuf encoding, Base 128 Varints."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED)


_SCORES, _PRIOR = _tag(_FIELDS["scores"].number), _tag(_FIELDS["prior_shares"].number)
_SHARES = tuple(
    _tag(_FIELDS[name].number) for name in ("history_shares", "text_shares", "social_shares", "query_shares")
)
_RESPONSE = _tag(pb.QueryBatchResponse.DESCRIPTOR.fields_by_name["responses"].number)
_PROCESS = token_hex(8)  # so that ids of queries differ between processes, at no cost to each
_NUMBERS = count(1)


def packed_reply(candidates: Candidates) -> bytes:
    """Return a serialized QueryResponse of candidates; a view without a share in any score has no column."""
    for_users = candidates.target is Target.USERS
    timings = candidates.timings
    rest = pb.QueryResponse(
        item_ids=() if for_users else candidates.ids,
        user_ids=candidates.ids if for_users else (),
        views_used=[VIEW_OF[view] for view in candidates.views_used],
        fallback=pb.FALLBACK_POPULARITY if candidates.fallback else pb.FALLBACK_NONE,
        exact=candidates.exact,
        query_id=f"{_PROCESS}{next(_NUMBERS):016x}",
        model_id=candidates.model_id,
        index_id=candidates.index_id,
        timings=pb.Timings(
            views_ms=timings.views_ms, encode_ms=timings.encode_ms, search_ms=timings.search_ms
        ),
        explanations=[_explanation(one) for one in candidates.explanations],
        state_age_seconds=candidates.state_age,
    )
    count = len(candidates.scores)
    if not count:
        return rest.SerializeToString()
    length, scores = _varint(4 * count), candidates.scores.astype("<f4", copy=False).tobytes()
    parts = [rest.SerializeToString(), _SCORES, length, scores]
    if candidates.shares is not None:
        columns = candidates.shares.T.astype("<f4")  # (P, n)
        raw = columns.tobytes()
        for view in np.flatnonzero(columns.any(axis=1)).tolist():
            parts += (_SHARES[view], length, raw[4 * count * view : 4 * count * (view + 1)])
    if candidates.fallback:
        parts += (_PRIOR, length, scores)
    return b"".join(parts)


def packed_batch(replies: list[bytes]) -> bytes:
    """Return a serialized QueryBatchResponse of serialized replies."""
    return b"".join(part for reply in replies for part in (_RESPONSE, _varint(len(reply)), reply))


def _explanation(explanation: Explanation) -> pb.Explanation:
    events, texts, friends = (
        [pb.Contribution(name=source.name, value=source.value) for source in sources]
        for sources in explanation
    )
    return pb.Explanation(events=events, texts=texts, friends=friends)
