"""triptych console: a web page that shows a server and asks it."""

from collections.abc import Sequence
from typing import Annotated

import typer

from scripts.connection import TlsCaOption, TlsCertOption, TlsKeyOption, TokenFileOption, token_of
from scripts.filter_options import filter_message
from triptych_client.pb.v1 import triptych_pb2 as pb


def console_command(
    address: Annotated[str, typer.Option(help="host:port of the server.")] = "127.0.0.1:50051",
    host: Annotated[str, typer.Option(help="Where the page is reached.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8090,
    write: Annotated[
        bool, typer.Option("--write", help="Offer changes, too, as far as the token may make them.")
    ] = False,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds that a call has.")] = 5.0,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Let other machines in: whoever opens the page has its token's rights."
        ),
    ] = False,
) -> None:
    """Show a server in the browser: try queries and see why, look at what serves.

    Example: triptych console --address 127.0.0.1:50051 --port 8090
    """
    from scripts.console.background import check_installed

    check_installed()
    from console import ConsoleConfig, run_console

    config = ConsoleConfig(
        address=address,
        read_filter=_filter,
        host=host,
        port=port,
        token=token_of(token_file),
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        write=write,
        timeout=timeout,
    )
    run_console(config, insecure=insecure)


def _filter(kinds: Sequence[str], conditions: Sequence[str]) -> pb.Filter | None:
    """Read kinds and conditions as `triptych query` does.  Raises: ValueError."""
    try:
        return filter_message(kinds, conditions, [], [])
    except typer.BadParameter as error:
        raise ValueError(str(error)) from error
