"""What a process notes of itself while it serves: figures, traces, both or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.config import ServerConfig
from server.telemetry.figures import Figures

if TYPE_CHECKING:
    from server.telemetry.traces import CallTracer


class TracesNotInstalledError(ValueError):
    """Traces are wanted, and OpenTelemetry is not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"traces need OpenTelemetry ({missing} is missing): pip install 'triptych[traces]', or leave out "
            "the address of a collector"
        )
        self.missing = missing


@dataclass(frozen=True)
class Telemetry:
    """What a process notes of itself.

    Attributes:
        figures: counts; None for none.
        tracer: of calls; None for none.
        counts_passed_on: whether calls are counted that a query process has passed on; it counts them itself.
    """

    figures: Figures | None = None
    tracer: "CallTracer | None" = None
    counts_passed_on: bool = True

    @property
    def wanted(self) -> bool:
        """Whether anything is noted."""
        return self.figures is not None or self.tracer is not None


@contextmanager
def noting(
    config: ServerConfig, figures: Figures | None, *, counts_passed_on: bool = True
) -> Iterator[Telemetry]:
    """Yield what a process notes while the block runs.

    Args:
        config: of the server: where traces go, and of how many calls.
        figures: None for none.
        counts_passed_on: as `Telemetry` says.

    Raises:
        TracesNotInstalledError: there is no OpenTelemetry.
    """
    if not config.traces_endpoint:
        yield Telemetry(figures, None, counts_passed_on)
        return
    try:
        from server.telemetry.traces import CallTracer  # noqa: PLC0415  # needs an extra
    except ImportError as error:
        raise TracesNotInstalledError(error.name or "it") from error
    tracer = CallTracer(config.traces_endpoint, config.traces_ratio)
    try:
        yield Telemetry(figures, tracer, counts_passed_on)
    finally:
        tracer.shutdown()
