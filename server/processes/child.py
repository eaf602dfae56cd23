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
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from server.addresses import commands_socket
from server.config import ServerConfig
from server.processes.roles import GO, OWNER, READY, WARM
from server.rereading import Rereading
from server.telemetry import ProcessTelemetry, log_as, noting

log = logging.getLogger(__name__)


def main() -> None:
    """Run a process until SIGTERM or the end of standard input; exit code 1 with a reason on stderr."""
    role, config_json, facts_json = sys.argv[1:]
    settings, facts = Rereading(ServerConfig.from_json(config_json)), json.loads(facts_json)
    log_as(settings.config.log_format, role)
    # These load what a process serves with.
    from encoder.jobs import leave_pandas_out  # noqa: PLC0415
    from server.app import until_stopped  # noqa: PLC0415

    leave_pandas_out()

    told = threading.Event()
    threading.Thread(target=_listen, args=(told, settings), name="parent", daemon=True).start()

    def wait_for_turn() -> None:
        _say(WARM)
        told.wait()

    try:
        folder = Path(facts["figures"]) if facts["figures"] else None
        owns, parent = role == OWNER, int(facts["parent"])
        with noting(
            settings.config, folder, counts_passed_on=not owns, tells_recent=owns, parent=parent
        ) as telemetry:
            block = _running(role, settings, facts, wait_for_turn, telemetry)
            until_stopped(settings, block, partial(_say, READY))
    except (ValueError, LookupError, OSError, RuntimeError) as error:
        print(f"server: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)


def _running(
    role: str,
    settings: Rereading,
    facts: dict[str, str],
    wait_for_turn: Callable[[], None],
    telemetry: ProcessTelemetry,
) -> AbstractContextManager[str]:
    """Return the block in which a process of a role answers."""
    folder = Path(facts["folder"])
    sockets = {one.tenant: commands_socket(folder, one.tenant) for one in settings.config.each_home()}
    if role == OWNER:
        wait_for_turn()
        from server.app import Following, running_owner  # noqa: PLC0415
        from server.identity import Reached  # noqa: PLC0415
        from server.live import QueryProcesses  # noqa: PLC0415

        config = settings.config
        address, parent, metrics = facts["address"], int(facts["parent"]), facts["metrics"]
        following = {
            tenant: Following(QueryProcesses(), Reached(address, socket, config.tls, parent, metrics))
            for tenant, socket in sockets.items()
        }
        return running_owner(config, following, settings, telemetry)
    if settings.config.read_only:
        from server.processes.read_replica import running_read_replica  # noqa: PLC0415

        return running_read_replica(settings, Path(facts["counters"]), telemetry, wait_for_turn)
    from server.processes.query_process import running_query_process  # noqa: PLC0415

    return running_query_process(settings, sockets, Path(facts["counters"]), telemetry, wait_for_turn)


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
