"""The gates of a block as a torch module, where a gradient moves how far the views are trusted."""

import torch
from torch import Tensor, nn

from encoder.tower.fusion import Trust

_TINY = 1e-6


class TrustedGates(nn.Module):
    """The gates of views by amounts, shrinkage and agreement, with parameters that a gradient can move.

    It computes what `Fusion.weights` computes. All values have three elements, for H, T, S.
    """

    def __init__(self, start: Trust) -> None:
        super().__init__()
        self.log_pseudo_counts = nn.Parameter(torch.log(torch.tensor(start.pseudo_counts)))
        self.log_sharpness = nn.Parameter(torch.log(torch.tensor(start.sharpness)))
        self.expected = nn.Parameter(torch.tensor(start.expected))

    def forward(self, open_gates: Tensor, amounts: Tensor, aligned: Tensor) -> Tensor:
        """Compute the normalised gates (B, 3).

        Args:
            open_gates: (B, 3), before shrinkage; 0 where a view is absent.
            amounts: (B, 3), log(1 + number of elements).
            aligned: z (B, 3, D).
        """
        counts = torch.expm1(amounts)
        shrunk = counts / (counts + self.log_pseudo_counts.exp())
        gates = open_gates * shrunk
        gram = aligned @ aligned.transpose(1, 2)  # (B, 3, 3)
        others = gates[:, None, :] * (1.0 - torch.eye(3, device=gates.device))
        total = others.sum(dim=2)
        squares = ((others @ gram) * others).sum(dim=2) * gram.diagonal(dim1=1, dim2=2)
        agreement = (others * gram).sum(dim=2) / squares.clamp_min(_TINY**2).sqrt()
        reliability = (others * shrunk[:, None, :]).sum(dim=2) / total.clamp_min(_TINY)
        expected = self.expected * (shrunk * reliability).clamp_min(_TINY).sqrt()
        credit = torch.sigmoid(self.log_sharpness.exp() * (agreement - expected))
        gates = gates * torch.where(total > 0, credit, 1.0)
        return gates / (gates.sum(dim=1, keepdim=True) + 1e-12)

    def trust(self) -> Trust:
        """Return the values as they are now."""
        return Trust(
            three(self.log_pseudo_counts.exp()), three(self.log_sharpness.exp()), three(self.expected)
        )


def three(values: Tensor) -> tuple[float, float, float]:
    """Return the three elements of a tensor."""
    first, second, third = values.tolist()
    return first, second, third
