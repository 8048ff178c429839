"""MedKLIP: the findings of a pre-training by loss `medklip`, and where they were looked for.

Take it after `vladapt pretrain --loss medklip`, to ask its model for findings and where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._query_answers import QueryAnswers


@dataclass(eq=False, kw_only=True)
class Medklip(QueryAnswers):
    """MedKLIP: Medical Knowledge Enhanced Language-Image Pre-Training in Radiology (Wu et al., 2023, arXiv 2301.02228).

    Zero-shot: the queries of all findings look at the patches of an image, and the logit of one is that of "present"
    above that of "absent", so that its probability is the softmax of the two. `--explain` maps where its query looked,
    the mean over layers and heads. Nothing is learned from the labels. It compares no images with texts: retrieval is
    refused.

    Raises:
        CapabilityError: a backbone that loss `medklip` did not train, one without patch tokens, or patches of another
            grid than those of the fit.

    Example:
        >>> adapter = build_adapter("medklip")
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"patch_tokens": patches})
        >>> adapter.logits(Batch(patch_tokens=test_patches)).shape
        torch.Size([12, 3])
    """

    answers_by: ClassVar[str] = "medklip"
    differs: ClassVar[str] = "a class that was not learned has one query, the mean of its texts, beside all findings"
