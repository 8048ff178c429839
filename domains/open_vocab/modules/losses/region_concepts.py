"""What a region learns from a frozen CLIP that has looked at it: RegionCLIP's pretraining (2021, arXiv 2112.09106)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....core.contracts import require


@dataclass(frozen=True)
class PseudoLabels:
    """What the teacher says of R regions.

    Args:
        kept: (R,) bool, regions of which it is certain enough.
        probabilities: (kept, K) over concepts.
        concepts: (kept,) the best concept of each.
    """

    kept: Tensor
    probabilities: Tensor
    concepts: Tensor


class RegionConceptLoss(nn.Module):
    """Regions that a teacher can name follow its scores over all concepts, and are drawn to the concept it names.

    Args:
        threshold: a region is kept where the teacher's best probability is above it. Where none is, all are.
        temperature: cosines of the student are divided by it.
        teacher_temperature: those of the teacher.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, threshold: float = 0.1, temperature: float = 0.01, teacher_temperature: float = 0.01):
        super().__init__()
        require(0 <= threshold < 1, "threshold", threshold, "give 0 to below 1")
        require(temperature > 0, "temperature", temperature, "give a number above 0")
        require(teacher_temperature > 0, "teacher_temperature", teacher_temperature, "give a number above 0")
        self.threshold, self.temperature, self.teacher_temperature = threshold, temperature, teacher_temperature

    @torch.no_grad()
    def pseudo_labels(self, regions: Tensor, concepts: Tensor) -> PseudoLabels:
        """Args: (R, D') unit features of the teacher; (K, D') unit embeddings of the concepts, by its text tower."""
        probabilities = (regions @ concepts.T / self.teacher_temperature).softmax(dim=1)  # (R, K)
        best = probabilities.max(dim=1)
        kept = best.values > self.threshold
        kept = kept if kept.any() else torch.ones_like(kept)
        return PseudoLabels(kept, probabilities[kept], best.indices[kept])

    def forward(self, regions: Tensor, concepts: Tensor, labels: PseudoLabels) -> dict[str, Tensor]:
        """The two losses.

        Args:
            regions: (R, D) unit features of the student.
            concepts: (K, D) unit embeddings of the concepts, by the student's text tower.
            labels: of the same R regions.
        """
        regions = regions[labels.kept]
        if not len(regions):
            return {"distill": regions.sum(), "contrast": regions.sum()}
        logits = regions @ concepts.T / self.temperature  # (kept, K)
        distill = F.kl_div(logits.log_softmax(dim=1), labels.probabilities, reduction="batchmean")
        return {"distill": distill, "contrast": self._contrast(logits, labels.concepts)}

    def _contrast(self, logits: Tensor, named: Tensor) -> Tensor:
        """Each region picks its concept among those of all regions, each counted as often as it was named.

        The share of all right answers together is made large (MIL-NCE: End-to-End Learning of Visual Representations
        from Uncurated Instructional Videos, 2019, arXiv 1912.06430), so no right answer is a negative.
        """
        scores = logits[:, named]  # (kept, kept): column j is the concept of region j
        wrong = named[:, None] != named[None, :]
        return (scores.logsumexp(dim=1) - scores.masked_fill(wrong, -torch.inf).logsumexp(dim=1)).mean()
