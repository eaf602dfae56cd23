"""The learned block as a torch module: three view encoders, fusion with learned gates, item vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from encoder.arrays import IntArray
from encoder.learned.batches import Step
from encoder.learned.config import LearnConfig
from encoder.learned.start import StartMismatchError
from encoder.tower import MAX_GATE_SLOPE, Block, Fusion, Trust
from encoder.tower.gates import TrustedGates, three
from encoder.views import FloatArray, Matrix

START_GATES = (1.0, 0.37, 0.6)
START_TRUST = Trust((5.0, 0.5, 1.0), (12.0, 6.0, 6.0), (0.5, 0.2, 0.2))
START_SCALE = 4.0
_RARE = 0.1  # share of the items with the fewest events, whose mean bias stands for an item without events
_TINY = 1e-6


@dataclass(frozen=True)
class Bags:
    """A sparse matrix (B, N) as bags of rows of a table: indices and weights (n,), offsets (B,)."""

    indices: Tensor
    offsets: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rows: Matrix, device: torch.device) -> "Bags":
        """Copy a sparse matrix to a device as bags."""
        return cls(
            torch.from_numpy(rows.indices.astype(np.int64)).to(device),
            torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(device),
            torch.from_numpy(rows.data.astype(np.float32)).to(device),
        )

    def pool(self, table: Tensor) -> Tensor:
        """Pool the rows of a table (N, D): weighted sums of length 1, (B, D); zero for an empty bag."""
        summed = F.embedding_bag(
            self.indices, table, self.offsets, mode="sum", per_sample_weights=self.weights
        )
        return F.normalize(summed, dim=1, eps=_TINY)


@dataclass(frozen=True)
class StepDraws:
    """What one step of training leaves out at random, of B users and N items.

    Shapes:
        text: (B, D_T) factors of the text vectors, 0 or 1 / (1 − noise); None leaves them as they are.
        views: (B, 3) bool, the views that are not masked.
        ids: (N, 1) bool, the items whose id counts; None where all do.
    """

    text: Tensor | None
    views: Tensor
    ids: Tensor | None

    def part(self, chosen: slice) -> "StepDraws":
        """Return the draws for some of the users."""
        return StepDraws(None if self.text is None else self.text[chosen], self.views[chosen], self.ids)

    def to(self, device: torch.device) -> "StepDraws":
        """Copy the draws to a device."""
        text, ids = (None if one is None else one.to(device) for one in (self.text, self.ids))
        return StepDraws(text, self.views.to(device), ids)


@dataclass(frozen=True)
class Inputs:
    """A step as tensors: histories over N items, friends over N items, ties over the step's friends.

    `draws` is what is left out at random, as training does; None leaves out nothing.
    """

    history: Bags
    friends: Bags
    ties: Bags
    text: Tensor
    amounts: Tensor
    present: Tensor
    genuine: Tensor
    draws: StepDraws | None = None

    @classmethod
    def of(cls, step: Step, device: torch.device, draws: StepDraws | None = None) -> "Inputs":
        """Copy a step to a device."""
        amounts = torch.from_numpy(step.amounts).to(device)
        return cls(
            Bags.of(step.history, device),
            Bags.of(step.friends, device),
            Bags.of(step.ties, device),
            torch.from_numpy(step.text).to(device),
            amounts,
            (amounts > 0).float(),
            torch.from_numpy(step.genuine).to(device),
            None if draws is None else draws.to(device),
        )


class LearnedBlock(nn.Module):
    """V_u = Σ_i w_i unit(W_i V_i + offset_i), where V_H and V_S are pooled with the item table E.

    Scores are s <V_u, x_j> + b_j with x_j = id_j + W text_j. Gates w_i are a softmax over the views that are
    present, of a_i + Σ_j B_ij amount_j.

    Shapes:
        table, ids: (N, D); bias: (N,); item_text_vectors: (N, D_T) fixed.
    """

    PER_ITEM = ("table", "ids", "bias")  # parameters with a row for each item

    def __init__(self, items: int, item_text_vectors: FloatArray, options: LearnConfig) -> None:
        super().__init__()
        dim, text_dim = options.dim, item_text_vectors.shape[1]
        spread = (2.0 / (items + dim)) ** 0.5
        self._options = options
        self.table = nn.Parameter(torch.randn(items, dim) * spread)
        self.ids = nn.Parameter(torch.randn(items, dim) * spread)
        self.bias = nn.Parameter(torch.zeros(items))
        self.of_text = nn.Parameter(torch.randn(text_dim, dim) * 0.02)
        self.of_item_text = nn.Parameter(torch.randn(text_dim, dim) * 0.02)
        self.of_friends = nn.Parameter(torch.eye(dim))
        self.offsets = nn.Parameter(torch.zeros(3, dim))
        self.gates = nn.Parameter(torch.log(torch.tensor(START_GATES)))
        self.slopes = nn.Parameter(torch.zeros(3, 3))
        self.trust = TrustedGates(START_TRUST)
        self.log_scale = nn.Parameter(torch.log(torch.tensor(START_SCALE)))
        self.item_text_vectors: Tensor
        self._has_text = bool(item_text_vectors.any())
        self.register_buffer("item_text_vectors", torch.from_numpy(item_text_vectors), persistent=False)

    @torch.no_grad()
    def start_from(self, weights: Mapping[str, FloatArray], rows: IntArray) -> None:
        """Copy the weights of an earlier block; parameters that it lacks stay as they are.

        Args:
            weights: parameters by name, those of PER_ITEM with a row for each item that it knew.
            rows: (N,) the row there of each item, −1 for a new one, which keeps the row it has.

        Raises:
            StartMismatchError: a parameter has another shape.
        """
        known = torch.from_numpy(rows >= 0)
        for name, parameter in self.named_parameters():
            if name not in weights:
                continue
            old = torch.from_numpy(np.asarray(weights[name], order="C"))
            if name in self.PER_ITEM:
                check_shape(name, old.shape[1:], parameter.shape[1:])
                parameter[known.to(parameter.device)] = old[rows[rows >= 0]].to(parameter.device)
            else:
                check_shape(name, old.shape, parameter.shape)
                parameter.copy_(old)

    def draw(self, users: int, device: torch.device) -> StepDraws:
        """Draw on a device what a step of some users leaves out, from torch's generator there."""
        options, text_dim = self._options, self.item_text_vectors.shape[1]
        text = ids = None
        if options.noise and text_dim:
            text = torch.empty(users, text_dim, device=device)
            text.bernoulli_(1 - options.noise).div_(1 - options.noise)
        views = torch.rand(users, 3, device=device) >= options.view_dropout
        if self._has_text and options.id_dropout:
            ids = torch.rand(len(self.ids), 1, device=device) >= options.id_dropout
        return StepDraws(text, views, ids)

    def parts(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Compute unit views (B, 3, D) and gates (B, 3), which are 0 where a view is absent or masked."""
        pooled = inputs.history.pool(self.table)  # (B, D)
        if len(inputs.friends.offsets):
            social = inputs.ties.pool(inputs.friends.pool(self.table)) @ self.of_friends
        else:
            social = torch.zeros_like(pooled)
        draws, text, present = inputs.draws, inputs.text, inputs.present
        if draws is not None:
            text = text if draws.text is None else text * draws.text
            present = present * draws.views
        views = torch.stack([pooled, text @ self.of_text, social], dim=1)
        views = F.normalize(views + self.offsets, dim=2, eps=_TINY)  # (B, 3, D)
        moved = (inputs.amounts @ self.slopes.T).clamp(-MAX_GATE_SLOPE, MAX_GATE_SLOPE)
        return views, self.trust(torch.exp(self.gates + moved) * present, inputs.amounts, views)

    def items(self, rows: Tensor | None = None, draws: StepDraws | None = None) -> Tensor:
        """Compute item vectors (N, D); where ids are left out at random, some of them from their text alone.

        Args:
            rows: (n,) those of the items to compute, each once; None is all.
            draws: of a step of training.
        """
        ids = self.ids if rows is None else F.embedding(rows, self.ids)
        if not self._has_text:
            return ids
        text = self.item_text_vectors if rows is None else self.item_text_vectors[rows]
        if draws is not None and draws.ids is not None:
            shown = draws.ids
            ids = ids * (shown if rows is None else shown[rows])
        return ids + text @ self.of_item_text

    @torch.no_grad()
    def block(self, popularity: FloatArray, targets: npt.NDArray[np.bool_] | None = None) -> Block:
        """Return the fitted arrays.

        Args:
            popularity: (N,), 0 for an item that no history names: it gets no row in the table, nor an id
                vector.
            targets: (N,) bool, the items that were ever targets; all where None. An item that is in histories
                but is no target has an id vector that only negatives shaped: its text alone is used.
        """
        scale = float(self.log_scale.exp())
        known = popularity > 0
        learned = known if targets is None else known & targets
        bias = to_numpy(self.bias)
        if learned.any():
            rare = learned & (popularity <= np.quantile(popularity[learned], _RARE))
            bias = bias - bias[rare].mean()  # adding a constant to all changes no ranking
        bias = bias * learned
        ids = self.ids * torch.from_numpy(learned[:, None]).to(self.ids.device)
        vectors = scale * to_numpy(ids + self.item_text_vectors @ self.of_item_text)
        dim = self.table.shape[1]
        fusion = Fusion(
            (np.eye(dim, dtype=np.float32), to_numpy(self.of_text), to_numpy(self.of_friends)),
            three(self.gates.exp()),
            to_numpy(self.offsets),
            to_numpy(self.slopes),
            unit=True,
            constant=True,
            trust=self.trust.trust(),
        )
        return Block(
            table=to_numpy(self.table) * known[:, None],
            fusion=fusion,
            id_vectors=np.concatenate([vectors, bias[:, None]], axis=1) * known[:, None].astype(np.float32),
        )


def check_shape(name: str, stored: Sequence[int], wanted: Sequence[int]) -> None:
    """Compare the shape of a stored parameter with the one it is for.  Raises: StartMismatchError."""
    if tuple(stored) != tuple(wanted):
        raise StartMismatchError(name, tuple(stored), tuple(wanted))


def to_numpy(tensor: Tensor) -> FloatArray:
    """Copy a tensor into a float32 array."""
    values: FloatArray = tensor.detach().cpu().numpy().astype(np.float32)
    return values
