from pathlib import Path

import pytest

from store.home import Home
from tests.live_server import copy_home


@pytest.fixture
def home(small_home: Home, tmp_path: Path) -> Home:
    """A copy of the small home that a test may change; damage its files with `flip` only."""
    return copy_home(small_home, tmp_path / "home")
