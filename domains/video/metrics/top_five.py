"""Top-5 accuracy, which papers on actions report beside top-1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ....core.contracts import Metric

KEY, PLACES = "top_5_accuracy", 5


class TopFive(Metric):
    """top_5_accuracy: the share of clips whose class is among the five with the highest scores. Of five classes or
    fewer it would always be 1, and is left out."""

    def compute(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
        """By name; nothing where there are at most five classes."""
        if logits.shape[1] <= PLACES:
            return {}
        hits = (logits.topk(PLACES, dim=1).indices == labels[:, None]).any(dim=1)  # (N,)
        return {KEY: float(hits.float().mean())}

    def values(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
        return self.compute(logits, labels, class_names)
