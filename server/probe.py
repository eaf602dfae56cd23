"""python -m server.probe: whether a server answers; for containers, which ask again and again.

It asks at the unix socket for commands of a home, which needs neither TLS nor a token, or, as a read replica
has no such socket, at an address. Health needs no token there, either.
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from store.home import Home

_SECONDS = 4.0


def probe_command(
    home: Annotated[
        Path | None,
        typer.Option(envvar="TRIPTYCH_HOME", help="The home directory, of whose server is asked."),
    ] = None,
    alive: Annotated[bool, typer.Option("--alive", help="An answer is enough, SERVING or not.")] = False,
    address: Annotated[str, typer.Option(help="host:port of the server, in place of a home.")] = "",
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM root certificates, where the address has TLS.")
    ] = None,
    tls_name: Annotated[str, typer.Option(help="Name in its certificate, where it is not the host.")] = "",
) -> None:
    """Exit with 0 where the server of a home, or at an address, says that it is SERVING, else with 1 and why.

    Example: python -m server.probe --home demo
    Example: python -m server.probe --address 127.0.0.1:50051 --tls-ca ca.pem --tls-name triptych-replica
    """
    if address:
        reason = problem_at(address, tls_ca, tls_name, alive=alive)
    elif home is not None:
        _refuse_url(home)
        reason = problem(Home(home), alive=alive)
    else:
        raise typer.BadParameter("give --home or --address")
    if reason:
        print(f"probe: {reason}", file=sys.stderr)
        raise typer.Exit(1)


def _refuse_url(home: Path) -> None:
    """Refuse the URL of a home in object storage.  Raises: typer.BadParameter."""
    if ":/" in str(home):
        from store.objects import LiveStoreElsewhereError, url_of  # noqa: PLC0415  # probes are many

        reason = LiveStoreElsewhereError(url_of(home))
        raise typer.BadParameter(f"{reason}; a read replica is asked by --address")


def problem(home: Home, *, alive: bool = False) -> str:
    """Return why a server counts as not ready, or as not alive; "" where it does not."""
    try:
        address = str(json.loads(home.server_file.read_text("utf-8"))["local"])
    except FileNotFoundError:
        return f"{home.server_file} is not there: no server has started on this home"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{home.server_file} cannot be read: {error}"
    return problem_at(address, alive=alive)


def problem_at(address: str, tls_ca: Path | None = None, tls_name: str = "", *, alive: bool = False) -> str:
    """Return why a server at an address counts as not ready, or as not alive; "" where it does not."""
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if tls_name:
        options.append(("grpc.ssl_target_name_override", tls_name))
    try:
        with ExitStack() as stack:
            if tls_ca is None:
                channel = stack.enter_context(grpc.insecure_channel(address, options))
            else:
                credentials = grpc.ssl_channel_credentials(tls_ca.read_bytes())
                channel = stack.enter_context(grpc.secure_channel(address, credentials, options))
            request = health_pb2.HealthCheckRequest()
            said = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_SECONDS).status
    except OSError as error:
        return f"{tls_ca} cannot be read: {error}"
    except grpc.RpcError as error:
        return f"no answer: {error.code().name if isinstance(error, grpc.Call) else error}"
    if alive or said == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"it is {health_pb2.HealthCheckResponse.ServingStatus.Name(said)}: no index serves"


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what went wrong is said in one line
    typer.run(probe_command)
