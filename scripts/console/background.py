"""A console that goes on in the background after the command that started it, until another one ends it."""

from importlib.util import find_spec
from pathlib import Path

from scripts.background import BackgroundCommand, start_background, stop_background


class ConsoleNotInstalledError(RuntimeError):
    """There is nothing to draw pages with."""

    def __init__(self) -> None:
        super().__init__("the console needs NiceGUI, which is not installed: pip install 'triptych[console]'")


def check_installed() -> None:
    """Look for what the console needs.  Raises: ConsoleNotInstalledError."""
    if find_spec("nicegui") is None:
        raise ConsoleNotInstalledError


def start_console(address: str, folder: Path) -> BackgroundCommand:
    """Start a console that offers changes, for a server, at any free port; console.json lies in a folder.

    Raises:
        ConsoleNotInstalledError: there is no NiceGUI.
        BackgroundStartError: it does not answer; names its log.
    """
    check_installed()
    return start_background("console", ["--address", address, "--port", "0", "--write"], folder)


def stop_console(folder: Path) -> None:
    """End the console that `start_console` started for a folder, where it still runs."""
    stop_background("console", folder)
