"""The pages, a module each: what it shows, and what its buttons do."""

from console.pages.evaluation import show_evaluation
from console.pages.indexes import show_indexes
from console.pages.items import show_items
from console.pages.models import show_models
from console.pages.overview import show_overview
from console.pages.people import show_people
from console.pages.trying import show_try

__all__ = [
    "show_evaluation",
    "show_indexes",
    "show_items",
    "show_models",
    "show_overview",
    "show_people",
    "show_try",
]
