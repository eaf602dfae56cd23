"""The console: a web page that shows a server, and asks it.

It is a client of the API like any other: it holds no home and loads no model, and what its token may not do
the server refuses. `app.py` has the addresses of the pages, `pages/` draws them in the frame of `frame.py`,
and `backend.py` makes the calls. `question.py` is what the page Try asks, as an address carries it;
`results.py` shows what comes back; `words.py` says everything in English or Chinese (`chinese.py`).
"""

from console.app import OpenConsoleError, run_console
from console.config import ConsoleConfig

__all__ = ["ConsoleConfig", "OpenConsoleError", "run_console"]
