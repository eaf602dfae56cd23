"""python -m server.processes.child ROLE CONFIG FACTS: what the parent starts, the owner or a query process.

On standard output it says when it could answer and, once it was told to on standard input, that it does. Any
other line on standard input is new settings. It ends when its standard input does: the parent holds the other
end, so that no process outlives it.
"""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from server.config import ServerConfig
from server.processes.roles import GO, OWNER, READY, WARM
from server.rereading import Rereading
from server.telemetry import Figures, log_as

log = logging.getLogger(__name__)


def main() -> None:
    """Run a process until SIGTERM or the end of standard input; exit code 1 with a reason on stderr."""
    role, config_json, facts_json = sys.argv[1:]
    settings, facts = Rereading(ServerConfig.from_json(config_json)), json.loads(facts_json)
    log_as(settings.config.log_format, role)
    from server.app import until_stopped  # noqa: PLC0415  # loads what a process serves with

    told = threading.Event()
    threading.Thread(target=_listen, args=(told, settings), name="parent", daemon=True).start()

    def wait_for_turn() -> None:
        _say(WARM)
        told.wait()

    try:
        with _figures(facts) as figures:
            block = _running(role, settings, facts, wait_for_turn, figures)
            until_stopped(settings, block, partial(_say, READY))
    except (ValueError, LookupError, OSError, RuntimeError) as error:
        print(f"server: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _figures(facts: dict[str, str]) -> Iterator[Figures | None]:
    """Yield the numbers of this process, in a file that the parent reads; None where nobody wants them."""
    if not facts["figures"]:
        yield None
        return
    figures = Figures(Path(facts["figures"]) / str(os.getpid()))
    with figures.refreshed():
        yield figures


def _running(
    role: str,
    settings: Rereading,
    facts: dict[str, str],
    wait_for_turn: Callable[[], None],
    figures: Figures | None,
) -> AbstractContextManager[str]:
    """Return the block in which a process of a role answers."""
    if role == OWNER:
        wait_for_turn()
        from server.app import Following, running  # noqa: PLC0415
        from server.identity import Reached  # noqa: PLC0415
        from server.live import QueryProcesses  # noqa: PLC0415

        config = settings.config
        tls = config.tls_cert is not None
        reached = Reached(facts["address"], facts["owner"], tls, int(facts["parent"]), facts["metrics"])
        following = Following(QueryProcesses(), reached, figures)
        return running(config.as_owner(facts["owner"]), following, settings)
    from server.processes.query_process import running_query_process  # noqa: PLC0415

    return running_query_process(settings, facts["owner"], wait_for_turn, figures)


def _say(word: bytes) -> None:
    sys.stdout.buffer.write(word)
    sys.stdout.buffer.flush()


def _listen(told: threading.Event, settings: Rereading) -> None:
    rest = b""
    while part := os.read(0, 65_536):  # not sys.stdin: its lock would be held when the interpreter ends
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line + b"\n" == GO:
                told.set()
            else:
                _change(settings, line)
    os.kill(os.getpid(), signal.SIGTERM)


def _change(settings: Rereading, line: bytes) -> None:
    try:
        settings.change(ServerConfig.from_json(line.decode()))
    except (OSError, ValueError) as error:
        log.error("the settings of this process stay as they are: %s", error)


if __name__ == "__main__":
    main()
