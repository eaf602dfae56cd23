"""triptych gateway: one address in front of servers, for REST, gRPC-Web and gRPC."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger(__name__)


def gateway_command(
    address: Annotated[
        list[str] | None,
        typer.Option(
            help="host:port of a server, or unix:/path; repeat it for replicas that answer alike. "
            "[default: 127.0.0.1:50051]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Name or IP address; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain of the gateway.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of that.")] = None,
    server_ca: Annotated[
        Path | None, typer.Option(help="PEM root certificate of the servers; turns TLS to them on.")
    ] = None,
    server_cert: Annotated[
        Path | None, typer.Option(help="PEM certificate for servers that ask for one.")
    ] = None,
    server_key: Annotated[Path | None, typer.Option(help="PEM private key of that.")] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose pages browsers let call (CORS), as https://shop.example; may be repeated; * for all."
        ),
    ] = None,
    calls_per_connection: Annotated[
        int,
        typer.Option(
            min=0,
            help="Calls over one connection to a server, before one takes its place that may reach another "
            "of its processes; 0 keeps connections, for servers of one process.",
        ),
    ] = 16,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of Envoy.")] = min(
        4, os.cpu_count() or 1
    ),
    access_log: Annotated[
        bool, typer.Option(help="A line of JSON on stdout for each call, without personal data.")
    ] = True,
    grace: Annotated[float, typer.Option(min=0, max=3600, help="Seconds for running calls at the end.")] = 10,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without TLS or without tokens.")
    ] = False,
    print_: Annotated[
        bool,
        typer.Option("--print", help="Print the configuration, for an Envoy that you run, and end."),
    ] = False,
    openapi: Annotated[
        bool, typer.Option("--openapi", help="Print the description of the JSON form, and end.")
    ] = False,
) -> None:
    """Answer REST, gRPC-Web and gRPC at one address, with servers behind it.

    Example: triptych gateway --address 127.0.0.1:50051 --port 8080

    Example: triptych gateway --address 10.0.0.5:50051 --address 10.0.0.6:50051 --print > envoy.json
    """
    from scripts.gateway.config import GatewayConfig, bootstrap
    from scripts.gateway.exposure import check_gateway
    from scripts.gateway.methods import openapi_text
    from scripts.gateway.process import running_gateway, stopped_by_signals
    from triptych_client import Tls

    if openapi:
        sys.stdout.write(openapi_text())
        return
    server_tls = None
    if server_ca is not None:
        server_tls = Tls(server_ca.absolute(), _absolute(server_cert), _absolute(server_key))
    elif server_cert or server_key:
        raise typer.BadParameter("--server-cert and --server-key go with --server-ca")
    config = GatewayConfig(
        addresses=tuple(address or ["127.0.0.1:50051"]),
        host=host,
        port=port,
        tls_cert=_absolute(tls_cert),
        tls_key=_absolute(tls_key),
        server_tls=server_tls,
        origins=tuple(origin or ()),
        calls_per_connection=calls_per_connection,
        access_log=access_log,
    )
    if print_:
        print(json.dumps(bootstrap(config, openapi_text()), indent=2))
        return
    check_gateway(config, insecure=insecure)
    with stopped_by_signals() as stop, running_gateway(config, threads=threads, grace=grace) as gateway:
        log.info("gateway on %s for %s", gateway.url, ", ".join(config.addresses))
        gateway.wait(stop)
        log.info("stopping: running calls have %.0f s to finish", grace)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
