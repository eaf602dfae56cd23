"""The gate of a server that others reach: who calls, and which home answers, before a message is read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.json_format import Parse

from indexer.filters import Filter
from server.access import Access, granted
from server.status import Failure, abort_with, outcome
from server.telemetry import DENIALS, Figures, code_of
from server.wire.admission import Admission
from server.wire.query import filter_of
from triptych_client.pb.v1 import triptych_pb2 as pb

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Find: TypeAlias = "Callable[[grpc.HandlerCallDetails], _Handler | None]"

_OURS = "/triptych."


class MethodHandlers:
    """The handlers of services by method, which take the place of a `grpc.Server` that they are added to."""

    def __init__(self) -> None:
        self._handlers: dict[str, _Handler] = {}
        self._generic: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Take handlers that find methods by themselves."""
        self._generic += handlers

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: "Mapping[str, _Handler]"
    ) -> None:
        """Take the handlers of a service."""
        self._handlers |= {f"/{service_name}/{name}": one for name, one in method_handlers.items()}

    def find(self, details: grpc.HandlerCallDetails) -> "_Handler | None":
        """Return the handler of a call; None for an unknown method."""
        handler = self._handlers.get(details.method)
        if handler is not None:
            return handler
        found = (handlers.service(details) for handlers in self._generic)
        return next((one for one in found if one is not None), None)


@dataclass(frozen=True)
class HomeCalls:
    """How calls about one home are answered.

    Attributes:
        admission: the threads that they run on.
        find: finds the handler of a method.
    """

    admission: Admission
    find: Find


class Gate(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Asks for the token of each call, and hands it to what answers about the home of its tenant."""

    def __init__(
        self,
        access: Access,
        homes: Mapping[str, HomeCalls],
        others: Admission,
        figures: Figures | None = None,
    ) -> None:
        """Take who decides, and who answers.

        Args:
            access: decides.
            homes: by tenant; "" where there is one home.
            others: the threads of calls that are about no home: health and reflection, which the server has.
            figures: count the calls that are denied; None for none.
        """
        self._denied: dict[int, Callable[[float], None]] = {}
        if figures is not None:
            self._denied = {code_of(name): figures.counter("calls_denied", name) for name in DENIALS}
        self._access = access
        self._homes = homes
        self._others = others

    def intercept_service(
        self,
        continuation: Find,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Return a handler that answers the call, or one that refuses it; None for an unknown method."""
        details = handler_call_details
        answer = outcome(partial(self._access.authorise, details.method, details.invocation_metadata))
        if isinstance(answer, Failure):
            if answer.code in self._denied:
                self._denied[answer.code](1.0)
            return _refusing(answer)
        if not details.method.startswith(_OURS):
            return self._others.admit(continuation, details)
        home = self._homes["" if answer is None else answer.token.tenant]
        apart = answer is not None and answer.token.filter is not None
        return home.admission.admit(home.find, details, apart=apart)


def visible_items() -> Filter | None:
    """Return what the caller may see of items, by the token of the call; None for all of them."""
    grant = granted()
    if grant is None or grant.token.filter is None:
        return None
    return _filter_of(json.dumps(grant.token.filter))


@lru_cache(1_024)
def _filter_of(written: str) -> Filter | None:
    return filter_of(Parse(written, pb.Filter()))


def _refusing(failure: Failure) -> "_Handler":
    """Return a handler that refuses a call of whatever method, without reading its messages."""

    def refuse(_: object, context: grpc.ServicerContext) -> NoReturn:
        abort_with(context, failure)

    return grpc.stream_stream_rpc_method_handler(refuse)
