"""python -m server --home H: the gRPC server; `triptych serve` is the same command."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer



def serve_command(
    home: Annotated[Path, typer.Option(envvar="TRIPTYCH_HOME", help="The home directory.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 50051,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Calls answered at once.")] = 8,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for running calls at shutdown.")] = 10.0,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain; needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key; needs --tls-cert.")] = None,
) -> None:
    """Serve queries over gRPC until SIGTERM; health turns SERVING once model and index are loaded.

    Example: triptych serve --home demo --port 50051
    """
    # One thread a call: calls run side by side, and FAISS reads this only from the environment.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from server.config import ServerConfig
    from server.lifecycle import serve
    from store.home import Home

    serve(
        ServerConfig(
            Home(home),
            host=host,
            port=port,
            workers=workers,
            grace_seconds=grace,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    typer.run(serve_command)
