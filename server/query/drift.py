"""People who are asked for, one a second, as distributions that drift is told from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encoder.drift.reference import DriftReference
from encoder.drift.stability import BINS, QUANTITIES
from server.query.query import Candidates, Query, StoredUser
from server.query.retriever import NotReadyError, Retriever
from server.query.snapshot import Snapshot
from server.query.subject_views import SubjectViews, raw_views
from server.telemetry import Figures

REMEMBERED = 4_096  # people: of older ones ever less is left
_EVERY_SECONDS = 1.0
_PLAIN = Query(StoredUser(""))


class DriftSampler:
    """Counts people who are asked for, by amounts, vector and best score.

    Of all queries one a second is taken, of a stored user and without options that change the answer. All
    that a query pays for it is a look at the clock; what the person has is read afterwards, by `look`, on
    the thread of the figures. Nobody is remembered by id for longer than until then.
    """

    def __init__(self, figures: Figures, models: Path, retriever: Retriever) -> None:
        """Count into the figures of this process.

        Args:
            figures: of the process; it calls `look`.
            models: folder of the models, which know how people were when they were trained.
            retriever: that answers the queries.
        """
        self._models = models
        self._retriever = retriever
        self._weights, self._expected = figures.cells("drift_weights"), figures.cells("drift_expected")
        self._model_id = ""
        self._reference: DriftReference | None = None
        self._taken: tuple[str, float] | None = None
        self._next = 0.0
        figures.sample(self.look)

    def offer(self, now: float, queries: Sequence[Query], answers: Sequence[object]) -> None:
        """Take a person among queries, given their answers, where a second has passed since the last one.

        Args:
            now: of `time.perf_counter`.
            queries: any.
            answers: Candidates, or anything else for a query without an answer.
        """
        if now < self._next:
            return
        for query, answer in zip(queries, answers, strict=True):
            if (
                isinstance(query.subject, StoredUser)
                and isinstance(answer, Candidates)
                and _is_comparable(query, answer)
            ):
                self._taken = query.subject.user_id, float(answer.scores[0])
                self._next = now + _EVERY_SECONDS
                return

    def look(self) -> None:
        """Count the person who was taken last, if any."""
        taken, self._taken = self._taken, None
        try:
            snapshot = self._retriever.snapshot
        except NotReadyError:
            return
        if snapshot.model.model_id != self._model_id:
            self._begin(snapshot)
        elif taken is not None and self._reference is not None:
            self._count(snapshot, self._reference, *taken)

    def _begin(self, snapshot: Snapshot) -> None:
        """Begin anew with another model."""
        self._model_id = snapshot.model.model_id
        self._reference = DriftReference.load(self._models / self._model_id)
        for place in range(len(self._weights)):
            self._weights[place] = self._expected[place] = 0.0
        for row, quantity in enumerate(QUANTITIES):
            shares = self._reference.distributions[quantity].shares if self._reference is not None else ()
            for bin_, share in enumerate(shares):
                self._expected[row * BINS + bin_] = share

    def _count(self, snapshot: Snapshot, reference: DriftReference, user_id: str, best_score: float) -> None:
        (record,) = snapshot.state.users([user_id])
        views = raw_views(snapshot, SubjectViews(record))
        vectors = snapshot.model.encode_users(views).vectors
        scores = np.array([best_score], dtype=np.float32)
        (values,) = reference.quantities(views.amounts, vectors, scores).tolist()
        for place, weight in enumerate(self._weights):
            self._weights[place] = weight * (1.0 - 1.0 / REMEMBERED)
        for row, (quantity, value) in enumerate(zip(QUANTITIES, values, strict=True)):
            self._weights[row * BINS + reference.distributions[quantity].bin_of(value)] += 1.0


def _is_comparable(query: Query, answer: Candidates) -> bool:
    """Whether an answer has the best score of a person whom the model knows something about."""
    plain = query.options == _PLAIN.options and query.filter is None and not query.offset
    return plain and query.exclude_seen and not answer.fallback and len(answer.scores) > 0
