"""MeDSLIP: the findings of a pre-training by loss `medslip`, and where they were looked for.

Take it after `vladapt pretrain --loss medslip`, to ask its model for findings and where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._query_answers import QueryAnswers


@dataclass(eq=False, kw_only=True)
class Medslip(QueryAnswers):
    """MeDSLIP: Medical Dual-Stream Language-Image Pre-training with Pathology-Anatomy Semantic Alignment (Fan et al.,
    2024, arXiv 2403.10635).

    Zero-shot, as of adapter `medklip`, by the stream of findings: its queries look at what the mask leaves to it of the
    patches of an image. Nothing is learned from the labels. It compares no images with texts: retrieval is refused.

    Raises:
        CapabilityError: a backbone that loss `medslip` did not train, one without patch tokens, or patches of another
            grid than those of the fit.

    Example:
        >>> adapter = build_adapter("medslip")
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"patch_tokens": patches})
        >>> adapter.logits(Batch(patch_tokens=test_patches)).shape
        torch.Size([12, 3])
    """

    answers_by: ClassVar[str] = "medslip"
    differs: ClassVar[str] = "as of adapter medklip: a class that was not learned has one query beside all findings"
