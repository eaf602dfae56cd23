"""A gateway that goes on in the background after the command that started it, until another one ends it."""

from pathlib import Path

from scripts.background import BackgroundCommand, start_background, stop_background
from scripts.gateway.process import envoy_path


def start_gateway(address: str, folder: Path) -> BackgroundCommand:
    """Start a gateway for a server at any free port; its log and gateway.json lie in a folder.

    Raises:
        EnvoyNotInstalledError: there is no Envoy.
        BackgroundStartError: it does not answer; names its log.
    """
    envoy_path()
    return start_background("gateway", ["--address", address, "--port", "0"], folder)


def stop_gateway(folder: Path) -> None:
    """End the gateway that `start_gateway` started for a folder, where it still runs."""
    stop_background("gateway", folder)
