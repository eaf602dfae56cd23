"""python -m server --home H: the gRPC server; `triptych serve` is the same command."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import duckdb
import typer

MOST_PROCESSES = 256
MAX_GRACE = 3_600.0  # seconds; beyond them no service manager waits


def serve_command(
    home: Annotated[
        Path, typer.Option(envvar="TRIPTYCH_HOME", help="The home directory.", show_default=False)
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 50051,
    host: Annotated[
        str, typer.Option(help="Name, IPv4 or IPv6 address, or unix:/path; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    processes: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Query processes on the port, beside one that owns the home; auto: as many as processors; "
            "1: one process does all.",
        ),
    ] = "1",
    spare: Annotated[
        bool,
        typer.Option(help="With --processes: keep one more loaded, that takes the place of one that dies."),
    ] = True,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Calls of a kind answered at once.")] = 8,
    user_cache_mb: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Megabytes of user vectors kept by a process.")
    ] = 128,
    grace: Annotated[
        float, typer.Option(min=0, max=MAX_GRACE, help="Seconds for running calls at shutdown.")
    ] = 10.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Where Prometheus finds metrics by HTTP; 0 takes a free port."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Name or IP address that --metrics-port listens on.")
    ] = "127.0.0.1",
    otlp_endpoint: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="OpenTelemetry collector that takes traces (OTLP, gRPC)."),
    ] = "",
    trace_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Calls that are traced, where the caller does not say.")
    ] = 0.01,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="What a line of the log is.")] = "text",
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain; needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key; needs --tls-cert.")] = None,
) -> None:
    """Serve queries over gRPC until SIGTERM.

    Health turns SERVING once model and index are loaded. With TLS, commands on this machine use an extra
    port on 127.0.0.1 without it.

    Example: triptych serve --home demo --port 50051
    """
    # One thread a call: calls run side by side, and FAISS reads this only from the environment.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from server.config import ServerConfig  # noqa: PLC0415
    from server.processes import serve_with_processes, usable_processors  # noqa: PLC0415
    from server.telemetry import log_as  # noqa: PLC0415
    from store.home import Home  # noqa: PLC0415

    if processes != "auto" and not (processes.isdecimal() and 1 <= int(processes) <= MOST_PROCESSES):
        raise ValueError(f"--processes is {processes!r}, not auto or a number in 1..{MOST_PROCESSES}")
    if not home.is_dir():
        raise FileNotFoundError(f"there is no directory {home} to serve: run `triptych import` first")
    config = ServerConfig(
        Home(home),
        host=host,
        port=port,
        workers=workers,
        grace_seconds=grace,
        tls_cert=tls_cert,
        tls_key=tls_key,
        user_cache_mb=user_cache_mb,
        spare=int(spare),
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        otlp_endpoint=otlp_endpoint,
        trace_ratio=trace_ratio,
        log_format=log_format,
        processes=usable_processors() if processes == "auto" else int(processes),
    )
    log_as(config.log_format)
    if config.processes > 1:
        serve_with_processes(config)
        return
    from server.app import serve  # noqa: PLC0415  # the parent of several processes need not load it

    serve(config)


def main() -> None:
    """Run the server: exit code 0, 1 with a one-line reason on stderr, or 2 for a usage error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    try:
        typer.run(serve_command)
    except (ValueError, LookupError, OSError, RuntimeError, duckdb.Error) as error:
        print(f"server: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
