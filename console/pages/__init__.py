"""The pages, a module each: what it shows, and what its buttons do."""

from console.pages.evaluation import show_evaluation
from console.pages.indexes import show_indexes
from console.pages.items import show_items
from console.pages.map import POINTS_PATH, SCRIPT_PATH, TITLE_PATH, item_title, map_points, show_map
from console.pages.models import show_models
from console.pages.overview import show_overview
from console.pages.people import show_people
from console.pages.trying import show_try

MAP_ANSWERS = {POINTS_PATH: map_points, TITLE_PATH: item_title}
MAP_SCRIPT = SCRIPT_PATH

__all__ = [
    "MAP_ANSWERS",
    "MAP_SCRIPT",
    "show_evaluation",
    "show_indexes",
    "show_items",
    "show_map",
    "show_models",
    "show_overview",
    "show_people",
    "show_try",
]
