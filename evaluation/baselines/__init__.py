"""The baselines that a model has to beat: popularity, EASE, ItemKNN, iALS, BPR, EASE with side features.

Each is a Scorer with `fit` and `scores`, and a function that chooses its settings on valid by `selection`.
ItemKNN, iALS and BPR are those of the library `implicit` (`library`), which the extra `bench` installs.
"""

from evaluation.baselines.bpr import Bpr, choose_bpr
from evaluation.baselines.ease import Ease, Popularity, TooManyItemsError, choose_ease
from evaluation.baselines.ials import Ials, choose_als
from evaluation.baselines.item_knn import ItemKnn, choose_knn
from evaluation.baselines.library import LibraryMissingError, TooMuchWorkError, require_library
from evaluation.baselines.selection import Scorer
from evaluation.baselines.side_ease import Side, SideEase, choose_side_ease

__all__ = [
    "Bpr",
    "Ease",
    "Ials",
    "ItemKnn",
    "LibraryMissingError",
    "Popularity",
    "Scorer",
    "Side",
    "SideEase",
    "TooManyItemsError",
    "TooMuchWorkError",
    "choose_als",
    "choose_bpr",
    "choose_ease",
    "choose_knn",
    "choose_side_ease",
    "require_library",
]
