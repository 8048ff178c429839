"""Calibration error of test images before and after calibrating, of methods on public sets and on drawn cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from vladapt.core.confidence import Calibration, calibration_error
from vladapt.core.registry import build_adapter
from vladapt.core.tasks.classification.fitting import fit_adapter

from .sets import QUIET, SAMPLE, SCENES, calibration_of_fit, prepared

NAMES = (SAMPLE, "blood cells", "chest X-rays", "groceries", *list(SCENES)[:1])
METHODS = ("tip-adapter", "gda", "taskres", "linear-probe")
SHOTS, SEEDS = (4, 16), (1, 2)
DRAWS = 50
"""Of right and wrong answers, for the error that confidences without fault would show."""


def lines(data: Path) -> Iterator[str]:
    """A row per set and number of shots, means over seeds, in percent."""
    yield f"| set | test images | shots | {' | '.join(f'`{name}`' for name in METHODS)} | without fault |"
    yield f"|---|---:|---:|{'---:|' * len(METHODS)}---:|"
    for name in NAMES:
        whole = prepared(data, name)
        for shots in SHOTS if whole is not None else ():
            cells, least = [], []
            for method in METHODS:
                found = [errors(whole, method, shots, seed) for seed in SEEDS]
                before, after, without_fault = (100 * fmean(each) for each in zip(*found))
                cells.append(f"{before:.0f} → {after:.0f}")
                least.append(without_fault)
            tested = len(whole.test_items)
            yield f"| {name} | {tested} | {shots} | {' | '.join(cells)} | {fmean(least):.0f} |"


def errors(whole, method: str, shots: int, seed: int) -> tuple[float, float, float]:
    """Calibration error of one fit on the test images, before and after, and that of confidences without fault."""
    drawn = whole.draw(shots, seed)
    adapter = build_adapter(method)
    report = fit_adapter(adapter, whole, drawn, seed, QUIET)
    logits, labels = adapter.logits(drawn.test).cpu(), drawn.test.labels.cpu()
    calibration = calibration_of_fit(whole, adapter, report, drawn, seed)
    if calibration is None:  # the run says so, and shows the raw confidences
        before = calibration_error(logits, labels)
        return before, before, error_without_fault(logits.double().softmax(dim=1))
    return *calibration.errors(logits, labels), error_without_fault(_probabilities(calibration, logits))


def error_without_fault(probs: Tensor) -> float:
    """Mean error over draws in which each answer is right as often as its confidence says: few images show some."""
    draw = torch.Generator().manual_seed(0)
    logits, found = probs.clamp(min=1e-300).log(), []
    for _ in range(DRAWS):
        found.append(calibration_error(logits, torch.multinomial(probs, 1, generator=draw).squeeze(1)))
    return fmean(found)


def _probabilities(calibration: Calibration, logits: Tensor) -> Tensor:
    return calibration.probabilities(logits)
