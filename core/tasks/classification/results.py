"""What the report of a classification is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ...confidence.calibration import Calibration
from ...contracts.judgement import Findings
from ...contracts.run_info import RunInfo
from ...runs.comparison import Comparison
from ...runs.sections import Reasons
from .sample_pictures import SamplePictures

Explain = Callable[[Sequence[tuple[int, int]]], tuple[Sequence[Reasons], str]]
"""(Row, class index) pairs -> why each was called that, and the words above them."""


@dataclass(kw_only=True)
class ClassificationResults:
    """What the report is made of.

    Attributes:
        info: as in run.json; what it lacks is left out of the page.
        class_names: C names.
        labels: (N,) class indices of the test images, or (N, C) 0/1/NaN.
        zero_shot_logits: (N, C), or None where zero-shot means nothing.
        adapted_logits: (N, C).
        metrics: as in metrics.json.
        ids: N names of test images; may be empty.
        thumbnails: test row -> decoded image, (H, W, 3) uint8 or float 0..1, or (T, H, W, 3); None: no pictures.
        skipped: (file, reason) of all that was left out.
        calibration: what confidences are made with, or None.
        groups: N keys of test images that belong together, or None.
        findings: of the judgements, whose sections stand where these say.
        further: sections of a task of a domain's own.
        explain: why the mistakes were made; None: not explained.
    """

    info: RunInfo
    class_names: Sequence[str]
    labels: Tensor
    zero_shot_logits: Tensor | None
    adapted_logits: Tensor
    metrics: dict[str, Any]
    ids: Sequence[str] = ()
    thumbnails: Callable[[int], np.ndarray] | None = None
    skipped: Sequence[tuple[str, str]] = ()
    calibration: Calibration | None = None
    groups: Sequence[str] | None = None
    findings: Findings = field(default_factory=lambda: Findings({}))
    further: Sequence[Any] = ()
    explain: Explain | None = None

    @property
    def confident_logits(self) -> Tensor:
        """(N, C) adapted logits whose softmax or sigmoids are the confidences that users see."""
        return self.adapted_logits if self.calibration is None else self.calibration.scaling.logits(self.adapted_logits)

    @cached_property
    def compared(self) -> Comparison:
        """The adapted model and its baselines."""
        return Comparison.from_json(self.metrics)

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2

    @property
    def pictures(self) -> SamplePictures:
        return SamplePictures(self.thumbnails, self.ids)
