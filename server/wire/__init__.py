"""The wire: gRPC calls from their admission to their reply; `server.query` and `server.live` know none of it.

`gate` asks for the token of a call, and `admission` runs it on the threads of its kind or refuses it. The
servicers (`servicers` of Retrieval and Admin, `ingest_servicer` of Ingest, `owner_servicer` of what query
processes ask) translate the request, call what answers it, and translate the result.
`query`, `filters` and `ingest` have the translations, with every bound that a client could overstep; `bounds`
has those that they share. `observed` counts and traces calls and answers.
"""

from server.wire.admission import Admission
from server.wire.gate import Gate, HomeCalls, MethodHandlers
from server.wire.ingest_servicer import IngestServicer
from server.wire.listed import index_list, listed_at_most
from server.wire.observed import answer_observer_of
from server.wire.owner_servicer import OwnerServicer, StoredRowsServicer
from server.wire.query import filter_of
from server.wire.servicers import AdminServicer, RetrievalServicer, answering_process

__all__ = [
    "AdminServicer",
    "Admission",
    "Gate",
    "HomeCalls",
    "IngestServicer",
    "MethodHandlers",
    "OwnerServicer",
    "RetrievalServicer",
    "StoredRowsServicer",
    "answer_observer_of",
    "answering_process",
    "filter_of",
    "index_list",
    "listed_at_most",
]
