"""python -m server.probe: whether the server of a home answers; for containers, which ask again and again.

It asks at the unix socket for commands, which needs neither TLS nor a token.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from store.home import Home

_SECONDS = 4.0


def probe_command(
    home: Annotated[Path, typer.Option(envvar="TRIPTYCH_HOME", help="The home directory.")],
    alive: Annotated[bool, typer.Option("--alive", help="An answer is enough, SERVING or not.")] = False,
) -> None:
    """Exit with 0 where the server of a home says that it is SERVING, else with 1 and the reason.

    Example: python -m server.probe --home demo
    """
    reason = problem(Home(home), alive=alive)
    if reason:
        print(f"probe: {reason}", file=sys.stderr)
        raise typer.Exit(1)


def problem(home: Home, *, alive: bool = False) -> str:
    """Return why a server counts as not ready, or as not alive; "" where it does not."""
    try:
        address = str(json.loads(home.server_file.read_text("utf-8"))["local"])
    except FileNotFoundError:
        return f"{home.server_file} is not there: no server has started on this home"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{home.server_file} cannot be read: {error}"
    try:
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            request = health_pb2.HealthCheckRequest()
            said = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_SECONDS).status
    except grpc.RpcError as error:
        return f"no answer: {error.code().name if isinstance(error, grpc.Call) else error}"
    if alive or said == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"it is {health_pb2.HealthCheckResponse.ServingStatus.Name(said)}: no index serves"


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what went wrong is said in one line
    typer.run(probe_command)
