import numpy as np
import pytest

from encoder.tower.alignment import Alignment, Covariances, maxvar_alignment, ridge_alignment
from encoder.tower.fusion import fused_parts
from encoder.views import ViewBatch, view_batch

DIMS = (4, 5, 4)
ONES = (1.0, 1.0, 1.0)


def batch(users: int = 60, seed: int = 0) -> ViewBatch:
    """Three noisy views of a common 3-d signal; a third of each view is missing, one user has none."""
    generator = np.random.default_rng(seed)
    signal = generator.standard_normal((users, 3))
    views = []
    for dim in DIMS:
        view = signal @ generator.standard_normal((3, dim)) + 0.3 * generator.standard_normal((users, dim))
        views.append((view * (generator.random((users, 1)) > 0.33)).astype(np.float32))
    for view in views:
        view[0] = 0.0
    return view_batch(*views, np.ones((users, 3)))


def covariances(views: ViewBatch, step: int = 1_000) -> Covariances:
    sums = Covariances(DIMS)
    for start in range(0, len(views), step):
        sums.add(views.rows(slice(start, start + step)))
    return sums


def test_streaming_in_batches_sums_the_same_as_at_once() -> None:
    views = batch()
    one, many = covariances(views), covariances(views, step=7)
    for i in range(3):
        for j in range(3):
            np.testing.assert_allclose(many.plain[i][j], one.plain[i][j], atol=1e-10)
            np.testing.assert_allclose(many.shared[i][j], one.shared[i][j], atol=1e-10)


def test_ridge_solves_its_normal_equations_over_users_with_both_views() -> None:
    views = batch()
    aligned = ridge_alignment(covariances(views), ridge=2.0)
    np.testing.assert_array_equal(aligned.matrices[0], np.eye(4, dtype=np.float32))
    for i, view in ((1, views.text), (2, views.social)):
        both = (views.present[:, 0] * views.present[:, i]) > 0
        other, history = view[both].astype(float), views.history[both].astype(float)
        own = view[views.present[:, i] > 0].astype(float)
        residual = (own.T @ own + 2.0 * np.eye(own.shape[1])) @ aligned.matrices[i] - other.T @ history
        np.testing.assert_allclose(residual, 0.0, atol=1e-3)
    assert not aligned.offsets.any()


def test_ridge_regresses_texts_without_their_mean_onto_histories_without_theirs() -> None:
    views = batch()
    aligned = ridge_alignment(covariances(views, step=7), ridge=2.0, centred=True)
    own = views.text[views.present[:, 1] > 0].astype(float)
    both = (views.present[:, 0] * views.present[:, 1]) > 0
    mean = own.sum(axis=0) / (len(own) + 10)
    target = views.history[both].astype(float).sum(axis=0) / (both.sum() + 10)
    centred = own - mean
    gram = centred.T @ centred + 2.0 * np.eye(5)
    cross = (views.text[both] - mean).T @ (views.history[both] - target)
    np.testing.assert_allclose(aligned.matrices[1], np.linalg.solve(gram, cross), atol=1e-5)
    assert not aligned.offsets[[0, 2]].any()
    np.testing.assert_allclose(aligned.offsets[1], -mean @ aligned.matrices[1], atol=1e-5)


@pytest.mark.parametrize("ridge", [1.0, 10.0])
def test_what_all_texts_share_does_not_move_them(ridge: float) -> None:
    generator = np.random.default_rng(3)
    views = view_batch(
        *(generator.standard_normal((5_000, d)).astype(np.float32) for d in DIMS), np.ones((5_000, 3))
    )
    moved = view_batch(views.history, views.text + np.float32(3.0), views.social, np.ones((5_000, 3)))
    parts, other = (
        fused_parts(some, ridge_alignment(covariances(some), ridge, centred=True), ONES)
        for some in (views, moved)
    )
    cosines = (parts[:, 1] * other[:, 1]).sum(axis=1) * 9  # gates of a third each
    assert np.median(cosines) > 0.99


def test_the_only_text_of_all_is_not_taken_for_what_all_share() -> None:
    views = view_batch(*(np.eye(1, d, dtype=np.float32) for d in DIMS), np.ones((1, 3)))
    parts = fused_parts(views, ridge_alignment(covariances(views), ridge=1.0, centred=True), ONES)
    np.testing.assert_allclose(parts[0, 1], parts[0, 0], atol=1e-6)


def dense_maxvar(views: ViewBatch, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and V by the (U, U) problem of the definition, without the streamed blocks."""
    present = views.present.astype(float)
    keep = present.sum(axis=1) > 0
    roots = 1.0 / np.sqrt(present[keep].sum(axis=1))
    total = np.zeros((keep.sum(), keep.sum()))
    for i, view in enumerate((views.history, views.text, views.social)):
        x = (view * present[:, i : i + 1])[keep].astype(float)
        total += x @ np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T)
    values, vectors = np.linalg.eigh(roots[:, None] * total * roots)
    order = np.argsort(values)[::-1]
    return values[order], roots[:, None] * vectors[:, order]


@pytest.mark.parametrize("ridge", [1e-6, 1.0, 30.0])
def test_maxvar_agrees_with_the_dense_problem(ridge: float) -> None:
    views = batch()
    parts = fused_parts(views, maxvar_alignment(covariances(views), ridge, dim=3), ONES)
    found = parts.sum(axis=1)  # (U, 3)
    _, expected = dense_maxvar(views, ridge)
    kept = views.present.sum(axis=1) > 0
    for i in range(3):  # eigenvectors are free in sign
        sign = np.sign(found[kept][:, i] @ expected[:, i])
        np.testing.assert_allclose(found[kept][:, i], sign * expected[:, i], atol=2e-5)


@pytest.mark.parametrize("ridge", [1e-6, 10.0])
def test_maxvar_keeps_the_constraint(ridge: float) -> None:
    views = batch()
    found = fused_parts(views, maxvar_alignment(covariances(views), ridge, dim=3), ONES).sum(axis=1)
    gram = found.T @ (views.present.sum(axis=1)[:, None] * found)  # Vᵀ K V
    np.testing.assert_allclose(gram, np.eye(3), atol=1e-4)


def test_gates_are_shared_out_over_the_views_that_are_there() -> None:
    views = batch()
    matrices = tuple(np.eye(d, 4, dtype=np.float32) for d in DIMS)
    alignment = Alignment(matrices, np.zeros((3, 4), np.float32), unit=True)  # type: ignore[arg-type]
    parts = fused_parts(views, alignment, (1.0, 0.5, 0.25))
    lengths = np.linalg.norm(parts, axis=2)  # (U, 3): unit views times gates
    np.testing.assert_allclose(lengths[views.present.sum(axis=1) > 0].sum(axis=1), 1.0, atol=1e-5)
    assert not parts[0].any()  # the user without any view
    assert not parts[views.present == 0].any()
    only_text = views.only(("T",))
    alone = fused_parts(only_text, alignment, (1.0, 0.5, 0.25))
    np.testing.assert_allclose(np.linalg.norm(alone[only_text.present[:, 1] > 0, 1], axis=1), 1.0, atol=1e-5)
