"""Places in a list that was shown, as rows of a head's table of places."""

import numpy as np

from encoder.arrays import IntArray

FIRST = 0  # the position that is meant where a caller names none
POSITIONS = 21  # rows: the first twenty places, and all behind them
UNKNOWN_PLACE = POSITIONS  # the row of an unknown position, the last one


def places_of(positions: IntArray) -> IntArray:
    """Return the row of each position (n,) int64: 0..19, 20 for all behind, 21 for −1, which is unknown."""
    return np.where(positions < 0, UNKNOWN_PLACE, np.minimum(positions, POSITIONS - 1))
