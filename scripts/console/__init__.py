"""triptych console: a web page that shows a server and asks it."""

from scripts.console.command import console_command

__all__ = ["console_command"]
