"""What a consumer counts, for Prometheus and for its last words; no ids and no texts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ConsumerFigures:
    """Counters of one consumer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.events = Counter("triptych_consumed_events", "Events written.", registry=self.registry)
        self.rejected = Counter(
            "triptych_consumed_rejected",
            "Rows and whole events that were not written.",
            ["reason"],
            registry=self.registry,
        )
        self.position = Gauge(
            "triptych_consumed_position", "Sequence up to which the log is written.", registry=self.registry
        )
        self.pending = Gauge(
            "triptych_consumed_pending", "Messages of the log that are not read yet.", registry=self.registry
        )
        self.last = Gauge(
            "triptych_consumed_last_published_seconds",
            "When the log took the last event that was written, seconds since 1970.",
            registry=self.registry,
        )
        self.seconds = Histogram(
            "triptych_consumed_batch_seconds", "To write a batch.", registry=self.registry
        )
        self.interruptions = Counter(
            "triptych_consumed_interruptions",
            "How often the log or the server was lost, and reading began again.",
            registry=self.registry,
        )
        self.written = self.refused = 0

    def batch(self, events: int, reasons: dict[str, int], seconds: float) -> None:
        """Count a batch that was written."""
        self.written += events
        self.events.inc(events)
        self.seconds.observe(seconds)
        self.reject(reasons)

    def reject(self, reasons: dict[str, int]) -> None:
        """Count what was not written."""
        for reason, count in reasons.items():
            self.refused += count
            self.rejected.labels(reason).inc(count)
