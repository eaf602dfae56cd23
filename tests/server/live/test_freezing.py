"""What a publish takes out of the collector's sight, and what must not stay there."""

import gc
import weakref

import pytest

from server.live import freeze_what_stays


class _Node:
    """One end of a cycle."""

    def __init__(self) -> None:
        self.other: _Node | None = None


@pytest.mark.parametrize("frozen", [False, True])
def test_cycles_that_nobody_reaches_do_not_outlive_a_publish(frozen: bool) -> None:
    one, two = _Node(), _Node()
    one.other, two.other = two, one
    gone = weakref.ref(one)
    try:
        if frozen:
            gc.freeze()  # while it served, by the publish before
        del one, two
        freeze_what_stays()
        assert gone() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
