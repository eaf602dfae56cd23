from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import pytest

from scripts.gateway.config import GatewayConfig
from scripts.gateway.process import EnvoyNotInstalledError, envoy_path, running_gateway
from store.home import Home
from tests.engines.gateway import Gateway
from tests.live_server import Client, copy_home, server

Open = Callable[..., AbstractContextManager[Gateway]]


@pytest.fixture(scope="session")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Starts gateways; each writes its access log, and what Envoy says, into a file of its own."""

    @contextmanager
    def started(*addresses: str, **settings: object) -> Iterator[Gateway]:
        try:
            envoy_path()
        except EnvoyNotInstalledError as error:
            pytest.skip(str(error))
        said = tmp_path_factory.mktemp("gateway") / "log"
        options = {name: settings.pop(name) for name in ("threads", "grace", "make") if name in settings}
        config = GatewayConfig(addresses=addresses, port=0, **settings)
        with said.open("wb") as output, running_gateway(config, output=output, **options) as running:
            address = running.url.partition("://")[2]
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                yield Gateway(running, address, channel, said)

    return started


@pytest.fixture(scope="session")
def quiet(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that nothing is written to, so that it answers alike each time."""
    with server(copy_home(small_home, tmp_path_factory.mktemp("quiet") / "home")) as client:
        yield client


@pytest.fixture(scope="session")
def gateway(quiet: Client, open_gateway: Open) -> Iterator[Gateway]:
    """A gateway for that server."""
    with open_gateway(quiet.address, origins=("https://shop.test",)) as running:
        yield running


@pytest.fixture
def twice(small_home: Home, tmp_path: Path) -> tuple[Home, Home]:
    """Two copies of a home, which are alike."""
    return copy_home(small_home, tmp_path / "one"), copy_home(small_home, tmp_path / "other")
