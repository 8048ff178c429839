"""What is right for each row and column of a block of pairs, where several samples show one person."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ....core.runtime import Ranks


@dataclass(frozen=True)
class IdentityTargets:
    """Even targets over the samples of a person.

    Args:
        of_rows: (n, N), each row of this rank over all columns, of sum 1.
        of_columns: (n, N), each column over the rows of all ranks, of sum 1.
    """

    of_rows: Tensor
    of_columns: Tensor

    @classmethod
    def of(cls, labels: Tensor, ranks: Ranks, like: Tensor) -> IdentityTargets:
        """Of identities (n,) of this rank's rows.

        Args:
            like: whose type and device they have.
        """
        same = (labels[:, None] == ranks.columns(labels)).to(like)  # (n, N)
        counts = ranks.total(same.sum(dim=0))  # (N,)
        return cls(same / counts[ranks.own(len(same)), None], same / counts)


def soft_contrast(rows: Tensor, columns: Tensor, targets: IdentityTargets, soft: float, ranks: Ranks) -> Tensor:
    """Cross-entropy of both directions, halved, with targets that are mixed with what the model itself says.

    Args:
        rows, columns: (n, N) log softmax of the logits, along rows and down columns.
        soft: share of the model's own softmax in the targets; no gradient goes through it.
    """
    of_rows, of_columns = targets.of_rows, targets.of_columns
    if soft:
        of_rows = soft * rows.detach().exp() + (1 - soft) * of_rows
        of_columns = soft * columns.detach().exp() + (1 - soft) * of_columns
    forth = -(of_rows * rows).sum(dim=1).mean()
    back = -ranks.mean_of_sums_down(of_columns * columns)
    return ranks.average((forth + back) / 2)
