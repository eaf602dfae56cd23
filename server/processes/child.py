"""python -m server.processes.child ROLE CONFIG FACTS: what the parent starts, the owner or a query process.

On standard output it says when it could answer and, once it was told to on standard input, that it does. It
ends when its standard input does: the parent holds the other end, so that no process outlives it.
"""

import json
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
from server.telemetry import Figures, log_as


def main() -> None:
    """Run a process until SIGTERM or the end of standard input; exit code 1 with a reason on stderr."""
    role, config_json, facts_json = sys.argv[1:]
    config, facts = ServerConfig.from_json(config_json), json.loads(facts_json)
    log_as(config.log_format, role)
    from server.app import until_stopped  # noqa: PLC0415  # loads what a process serves with

    told = threading.Event()
    threading.Thread(target=_listen, args=(told,), name="parent", daemon=True).start()

    def wait_for_turn() -> None:
        _say(WARM)
        told.wait()

    try:
        with _figures(facts) as figures:
            block = _running(role, config, facts, wait_for_turn, figures)
            until_stopped(config, block, partial(_say, READY))
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
    config: ServerConfig,
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

        tls = config.tls_cert is not None
        reached = Reached(facts["address"], facts["owner"], tls, int(facts["parent"]), facts["metrics"])
        return running(config.as_owner(facts["owner"]), Following(QueryProcesses(), reached, figures))
    from server.processes.query_process import running_query_process  # noqa: PLC0415

    return running_query_process(config, facts["owner"], wait_for_turn, figures)


def _say(word: bytes) -> None:
    sys.stdout.buffer.write(word)
    sys.stdout.buffer.flush()


def _listen(told: threading.Event) -> None:
    while os.read(0, len(GO)):  # not sys.stdin: its lock would be held when the interpreter ends
        told.set()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
