"""An Open and Comprehensive Pipeline for Unified Object Grounding and Detection (MM-Grounding-DINO), 2024, arXiv
2401.02361; LLMDet: Learning Strong Open-Vocabulary Object Detectors under the Supervision of Large Language Models,
2025, arXiv 2501.18954."""

from __future__ import annotations

from ..family import Rates
from ..grounding import GroundingFamily


class Model(GroundingFamily):
    """Grounding DINO with a bias in its classes' scores.

    Fine-tuned on few images as published: AdamW at 1e-4, gradients clipped at 0.1, the image and the text tower frozen
    (there by a rate of 0). Losses of all decoder layers, which the configurations of the hub leave out.
    """

    model_class = "MMGroundingDinoForObjectDetection"
    processors = ("GroundingDinoImageProcessor",)
    rates = Rates(lr=1e-4, parts={"backbone": {"lr_mult": 0.0}})
