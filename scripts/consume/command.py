"""triptych consume: write the events of a log through a running server."""

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from scripts.connection import TlsCaOption, TlsCertOption, TlsKeyOption, TokenFileOption, token_of
from scripts.consume.consumer import Consumer
from scripts.consume.figures import ConsumerFigures
from triptych_client import AsyncClient

_CALL_SECONDS = 10.0
_REPORT_SECONDS = 10.0
_BAR_SECONDS = 0.2
log = logging.getLogger(__name__)


class MissingNatsError(RuntimeError):
    """The library for NATS is not installed."""

    def __init__(self) -> None:
        super().__init__("reading from NATS needs its library: pip install 'triptych[nats]'")


def consume_command(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="URL",
            help="A stream of NATS JetStream: nats://HOST:PORT/STREAM, tls:// where it speaks TLS; several "
            "servers of a cluster with commas.",
            show_default=False,
        ),
    ],
    address: Annotated[str, typer.Option(help="host:port of the server.")] = "127.0.0.1:50051",
    subject: Annotated[
        list[str] | None, typer.Option(help="Only messages under this subject; may be repeated.")
    ] = None,
    dead_letters: Annotated[
        str | None,
        typer.Option(
            metavar="STREAM",
            help="The stream for what cannot be written, made where it is missing; STREAM_DEAD without it.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Events to write at once, at most.")] = 1_000,
    limit: Annotated[int, typer.Option(min=0, help="End after so many events; 0 for never.")] = 0,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End where the stream has nothing more.")
    ] = False,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    nats_credentials: Annotated[
        Path | None, typer.Option(help="File of a NATS user's credentials, as nsc writes it.")
    ] = None,
    nats_nkey: Annotated[Path | None, typer.Option(help="File with the seed of a NATS user's nkey.")] = None,
    nats_user: Annotated[str, typer.Option(help="A NATS user, with --nats-password-file.")] = "",
    nats_password_file: Annotated[
        Path | None, typer.Option(help="File with the password of that user.")
    ] = None,
    nats_token_file: Annotated[Path | None, typer.Option(help="File with a token for NATS.")] = None,
    nats_tls_ca: Annotated[
        Path | None,
        typer.Option(help="PEM root certificate of the NATS server, where it is your own."),
    ] = None,
    nats_tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate for the NATS server.")] = None,
    nats_tls_key: Annotated[Path | None, typer.Option(help="PEM private key of that.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port for Prometheus; none without it.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address of that port.")] = "127.0.0.1",
) -> None:
    """Write the events of a log through a running server, each of them once.

    An event is one write of the API, as JSON or protobuf: {"append_behaviors": {"behaviors": [{"user_id":
    "alice", "item_id": "i00012"}]}}. The server keeps how far the log was read in the transaction that writes
    the rows, so the consumer, the server and NATS may be killed at any time. It goes on where it was, and
    waits for whichever does not answer. What cannot be written goes to a stream of dead letters.

    Example: triptych consume --from nats://127.0.0.1:4222/EVENTS --address 127.0.0.1:50051

    Example: triptych consume --from nats://127.0.0.1:4222/EVENTS --subject "web.>" --until-empty
    """
    try:
        from scripts.consume.jetstream import JetStreamLog
        from scripts.consume.nats_access import NatsAccess
    except ModuleNotFoundError as error:
        raise MissingNatsError from error
    stream = JetStreamLog.of_url(source)
    stream.subjects = tuple(subject or ())
    stream.dead_letters = dead_letters or f"{stream.stream}_DEAD"
    stream.batch = batch
    stream.access = NatsAccess(
        nats_credentials,
        nats_nkey,
        nats_user,
        nats_password_file,
        nats_token_file,
        nats_tls_ca,
        nats_tls_cert,
        nats_tls_key,
    )
    stream.access.check()
    figures = ConsumerFigures()
    if metrics_port is not None:
        from prometheus_client import start_http_server

        served, _ = start_http_server(metrics_port, metrics_host, figures.registry)
        log.info("metrics on http://%s:%d/metrics", metrics_host, served.server_port)

    async def run() -> None:
        client = AsyncClient(
            address,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            token=token_of(token_file),
            timeout=_CALL_SECONDS,
            connections=1,
        )
        async with client:
            consumer = Consumer(
                client,
                stream.name,
                stream.connect,
                figures,
                batch=batch,
                limit=limit,
                until_empty=until_empty,
            )
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, consumer.stop)
            showing = asyncio.create_task(_show_progress(figures))
            try:
                await consumer.run()
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)

    log.info("consuming %s", stream.name)
    try:
        asyncio.run(run())
    finally:
        print(f"{figures.written} events written, {figures.refused} rows or events rejected")


async def _show_progress(figures: ConsumerFigures) -> None:
    """Show how many events were written: a bar on a terminal, a line now and then in a pipe."""
    if sys.stderr.isatty():
        with tqdm(desc="consume", unit="event") as bar:
            while True:
                await asyncio.sleep(_BAR_SECONDS)
                bar.update(figures.written - bar.n)
    said = 0
    while True:
        await asyncio.sleep(_REPORT_SECONDS)
        if figures.written != said:
            said = figures.written
            log.info("%d events written, %d rows or events rejected", said, figures.refused)
