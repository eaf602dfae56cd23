"""The baselines that a model has to beat: popularity, EASE, ItemKNN, iALS, BPR, EASE with side features.

Each is a Scorer with `fit` and `scores`, and a function that chooses its settings on valid by `selection`.
"""

from evaluation.baselines.bpr import Bpr, choose_bpr
from evaluation.baselines.ease import Ease, Popularity, TooManyItemsError, choose_ease
from evaluation.baselines.ials import Ials, TooMuchWorkError, choose_als
from evaluation.baselines.item_knn import ItemKnn, TooManyPairsError, choose_knn
from evaluation.baselines.selection import Scorer
from evaluation.baselines.side_ease import Side, SideEase, choose_side_ease

__all__ = [
    "Bpr",
    "Ease",
    "Ials",
    "ItemKnn",
    "Popularity",
    "Scorer",
    "Side",
    "SideEase",
    "TooManyItemsError",
    "TooManyPairsError",
    "TooMuchWorkError",
    "choose_als",
    "choose_bpr",
    "choose_ease",
    "choose_knn",
    "choose_side_ease",
]
