"""Coverage of conformal sets over 200 divisions of the same images, beside what the theory says it is.

With n rows that are exchangeable with m test images, the number of test images whose set holds the right class is
beta-binomial: m draws with a chance from Beta(k, n + 1 - k), k = ceil((n + 1) 0.9). Its mean share is k / (n + 1).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import torch

from vladapt.core.confidence import SET_METHODS, Calibration
from vladapt.core.registry import build_adapter
from vladapt.core.tasks.classification.contest import RepeatedSplits
from vladapt.core.tasks.classification.fitting import fit_adapter

from .sets import PUBLIC, QUIET, SCENES, calibration_of_fit, drawn_classes, prepared, prepared_at, write_features

RESPLITS, COVERAGE = 200, 0.9
ADAPTER = ("tip-adapter", {"search_step": (50, 10)})
"""With a coarser search than the published one, which takes eight times as long."""
NAMES = (*list(SCENES)[:1], "chest X-rays", "groceries", "Gaussians")
WAYS = {"divided at random": 4, "kept out of the search": 1, "folds of the support": 4}
"""Where the rows are from -> shots."""
FOLDED = NAMES[::2]
"""Sets on which folds are measured: six fits per division."""
Outcome = tuple[float, int, int, list[float], list[float]]
"""Share expected, rows, test images, and per method of making sets the coverage and the mean size."""


def lines(data: Path) -> Iterator[str]:
    """A row per set and kind of calibration rows."""
    yield "| set | rows | n | expected | LAC | APS | RAPS | classes per set (LAC, APS, RAPS) |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            for name in NAMES if not way.startswith("folds") else FOLDED:
                file = _rows_of(data, name, Path(folder))
                if file is not None:
                    yield _line(name, way, outcomes(file, way, RESPLITS))


def outcomes(file: Path, way: str, resplits: int) -> list[Outcome]:
    """Coverage of 90 % sets on each division of a features file."""
    whole = prepared_at(str(file))
    if way == "divided at random":
        return _divided_at_random(whole, resplits)
    repeated = RepeatedSplits(whole, 1, resplits)
    return [_of_a_fit(repeated[number], WAYS[way], seed=number + 1) for number in range(resplits)]


def expected(rows: int, coverage: float = COVERAGE) -> float:
    """Mean share of test images whose set holds the right class; 1 where sets are of all classes."""
    return min(rows + 1, _place(rows, coverage)) / (rows + 1)


def expected_spread(rows: int, tested: int, coverage: float = COVERAGE) -> float:
    """Standard deviation of that share over divisions."""
    k = min(rows + 1, _place(rows, coverage))
    return math.sqrt(k * (rows + 1 - k) * (rows + 1 + tested) / ((rows + 1) ** 2 * (rows + 2) * tested))


def _place(rows: int, coverage: float) -> int:
    return math.ceil((rows + 1) * Fraction(str(coverage)))


def _divided_at_random(whole, resplits: int) -> list[Outcome]:
    """One fit; the images that neither taught nor chose are divided into calibration rows and test images anew."""
    shots = whole.draw(WAYS["divided at random"], 1)
    adapter = build_adapter(ADAPTER[0], **ADAPTER[1])
    fit_adapter(adapter, whole, shots, 1, QUIET)
    drawn = {*shots.support.ids, *(shots.val.ids if shots.val is not None else ())}
    pool = whole.of_ids([item.id for item in whole.data.items if item.id not in drawn])
    logits, labels, found = adapter.logits(pool).cpu(), pool.labels.cpu(), []
    for number in range(resplits):
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(number))
        rows, test = order[: len(pool) // 3], order[len(pool) // 3 :]
        calibration = Calibration.of_rows(logits[rows], labels[rows], tuple(whole.class_names), "divided at random")
        found.append(_outcome(calibration, logits[test], labels[test]))
    return found


def _of_a_fit(prepared_split, shots: int, seed: int) -> Outcome:
    """What a fit on this split keeps for its sets, on the test images of the split."""
    drawn = prepared_split.draw(shots, seed)
    adapter = build_adapter(ADAPTER[0], **ADAPTER[1])
    report = fit_adapter(adapter, prepared_split, drawn, seed, QUIET)
    calibration = calibration_of_fit(prepared_split, adapter, report, drawn, seed)
    return _outcome(calibration, adapter.logits(drawn.test).cpu(), drawn.test.labels.cpu())


def _outcome(calibration: Calibration, logits, labels) -> Outcome:
    probs, covered, sizes = calibration.probabilities(logits), [], []
    for method in SET_METHODS:
        scores = calibration.conformal(COVERAGE, method).scores(probs, labels)
        covered.append(scores["coverage"])
        sizes.append(scores["mean_set_size"])
    rows = len(calibration.logits)
    return expected(rows), rows, len(labels), covered, sizes


@cache
def _rows_of(data: Path, name: str, folder: Path) -> Path | None:
    """A features file of the set, so that it is divided without being read again."""
    if name == "Gaussians":
        return drawn_classes(folder / "gaussians.npz", 0, {"": [80] * 8})
    if name in SCENES:
        return None if prepared(data, name) is None else data / SCENES[name]
    whole = prepared(data, name) if name in PUBLIC else None
    if whole is None:
        return None
    rows = whole.of_ids([item.id for item in whole.data.items])
    text, names = whole.classifier.weights.cpu(), list(whole.class_names)
    return write_features(folder / f"{name.replace(' ', '_')}.npz", rows.features.cpu(), rows.labels.cpu(), text, names)


def _line(name: str, way: str, found: Sequence[Outcome]) -> str:
    means = torch.tensor([each[3] for each in found], dtype=torch.float64)  # (R, 3)
    sizes = torch.tensor([each[4] for each in found], dtype=torch.float64).mean(dim=0)
    rows, tested = (round(sum(each[place] for each in found) / len(found)) for place in (1, 2))
    mean = sum(each[0] for each in found) / len(found)
    theory = f"{100 * mean:.1f} ± {100 * expected_spread(rows, tested):.1f}"
    cells = [f"{100 * c.mean():.1f} ± {100 * c.std(correction=0):.1f}" for c in means.T]
    return f"| {name} | {way} | {rows} | {theory} | {' | '.join(cells)} | {', '.join(f'{s:.1f}' for s in sizes)} |"
