"""The layouts that `triptych import --format` knows, a module for each.

A module finds the files of its layout and says how a record becomes rows; `scripts/exchange/sources.py` has
the words for it. A new layout is a module like these and a line here.
"""

from scripts.exchange.formats.amazon_reviews import AMAZON_REVIEWS
from scripts.exchange.formats.lastfm_hetrec import LASTFM_HETREC
from scripts.exchange.formats.mind import MIND
from scripts.exchange.formats.movielens import MOVIELENS
from scripts.exchange.formats.recbole import RECBOLE
from scripts.exchange.formats.yelp import YELP
from scripts.exchange.sources import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (RECBOLE, MOVIELENS, LASTFM_HETREC, AMAZON_REVIEWS, YELP, MIND)
}

__all__ = ["LAYOUTS"]
