"""What a rich world has besides texts: prices, makers, moods and pictures of items, and who likes which."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAKERS, PICTURE_DIM = 24, 48
MOODS = ("calm", "bold", "dark", "playful", "plain", "lush", "raw", "warm", "cool", "odd", "grand", "shy")
_STYLES = 6  # hidden numbers behind a picture
_PRICES_ALIKE = 0.8  # of logarithms: how far a price may be from what somebody pays
_MAKER_LIKED, _MOOD_LIKED = 6.0, 1.2
_STYLE_MATTERS = 3.2
_NOISE = 0.15  # of a picture


@dataclass(frozen=True)
class Details:
    """Details of N items that no text names, and how they suit U users.

    Shapes:
        prices: (N,) positive; makers: (N,) in 0..MAKERS − 1; moods: (N, len(MOODS)) bool.
        pictures: (N, PICTURE_DIM) float64.
        suits: (U, N) positive, what the chance that a user takes an item is multiplied by.
    """

    prices: Floats
    makers: Ints
    moods: NDArray[np.bool_]
    pictures: Floats
    suits: Floats

    def attributes(self, others: list[str]) -> list[str]:
        """Return the attributes of the items, JSON, with those of `others`."""
        return [
            json.dumps(
                json.loads(other)
                | {
                    "price": round(float(price), 2),
                    "maker": f"maker {maker:02d}",
                    "moods": [mood for mood, has in zip(MOODS, moods, strict=True) if has],
                }
            )
            for other, price, maker, moods in zip(
                others, self.prices, self.makers.tolist(), self.moods, strict=True
            )
        ]

    def vectors(self) -> pa.Array:
        """Return the pictures as a column of vectors."""
        return pa.array(self.pictures.astype(np.float32).tolist(), pa.list_(pa.float32()))


def details(users: int, items: int, seed: int) -> Details:
    """Draw the details of a world, apart from everything else in it."""
    generator = np.random.default_rng([seed, 1])
    price, pays = generator.normal(3.0, 1.0, size=items), generator.normal(3.0, 0.8, size=users)
    makers = generator.integers(MAKERS, size=items)
    likes_maker = generator.random((users, MAKERS)) < 0.12
    moods = generator.random((items, len(MOODS))) < 0.2
    likes_mood = generator.normal(size=(users, len(MOODS)))
    style, likes_style = generator.normal(size=(items, _STYLES)), generator.normal(size=(users, _STYLES))
    style /= np.linalg.norm(style, axis=1, keepdims=True)
    likes_style /= np.linalg.norm(likes_style, axis=1, keepdims=True)
    pictures = style @ generator.normal(size=(_STYLES, PICTURE_DIM)) / np.sqrt(_STYLES)
    fits = -(((price[None] - pays[:, None]) / _PRICES_ALIKE) ** 2) / 2
    fits += np.log1p(_MAKER_LIKED * likes_maker[:, makers])
    fits += _MOOD_LIKED * (likes_mood @ moods.T) / 2
    fits += _STYLE_MATTERS * (likes_style @ style.T)
    noisy = pictures + _NOISE * generator.normal(size=pictures.shape)
    return Details(np.exp(price), makers, moods, noisy, np.exp(fits))
