"""A sample world: users with tastes, what they did and wrote, and their friends.

`world` draws the tastes and writes the files, `tables` makes the four tables, `sentences` the texts in them.
"""

from scripts.world.world import MIN_ITEMS, MIN_USERS, make_world

__all__ = [
    "MIN_ITEMS",
    "MIN_USERS",
    "make_world",
]
