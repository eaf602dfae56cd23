"""Events of a log, written through a server so that each counts once: `triptych consume`.

`source` says what a log is to the consumer, and `jetstream` is one: a stream of NATS. `events` reads what a
message holds, `consumer` goes through a log in batches, `figures` counts for Prometheus, `command` is the
command.
"""

from scripts.consume.command import consume_command

__all__ = ["consume_command"]
