"""What sets and open answers promise where images are of patients: over draws of the patients that they are calibrated
on, on patients that are drawn alike. Images of one patient share an error, and in half of the rows their class.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from vladapt.core.confidence import Conformal, answer_threshold, coverage_range

DRAWS, COVERAGE, CLASSES, OTHERS = 200, 0.9, 4, 2000
PATIENTS = (15, 25, 50, 100)
SIZES = {"12": 12, "1 to 40": None}
"""Images of each patient; where their number differs, harder patients have fewer."""
ERRORS, OPEN_PATIENTS = (0.05, 0.1, 0.2), (25, 50, 100, 300)


def drawn(count: int, seed: int, images: int | None, own_class: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of (N,) images of `count` patients: probabilities (N, C), classes and patients."""
    draw = torch.Generator().manual_seed(seed)
    shared, spread = (torch.randn(shape, generator=draw) for shape in ((count, CLASSES), (count,)))
    hard = shared.max(dim=1).values - shared.mean(dim=1)
    unequal = (30 * torch.exp(-hard * (1 + 0.3 * spread))).round().clamp(1, 40).long()
    of = torch.arange(count).repeat_interleave(unequal if images is None else torch.tensor(images))
    labels = torch.randint(CLASSES, (count if own_class else len(of),), generator=draw)
    labels = labels[of] if own_class else labels
    noise = torch.randn(len(of), CLASSES, generator=draw)
    logits = 3 * torch.nn.functional.one_hot(labels, CLASSES) + 1.5 * shared[of] + noise
    return logits.double().softmax(dim=1), labels, of


def mean_over_patients(values: Tensor, of: Tensor) -> float:
    """The mean over patients (N,) of the means of their values (N,)."""
    of = of.unique(return_inverse=True)[1]
    return float((of.bincount(values.double()) / of.bincount()).mean()) if len(values) else 0.0


def coverages(patients: int, images: int | None, own_class: bool, draws: int = DRAWS) -> Tensor:
    """(R, 2) coverage of sets whose rows count images, and patients, for each draw of the rows."""
    probs, labels, of = drawn(OTHERS, draws, images, own_class)
    found = []
    for seed in range(draws):
        rows, truth, groups = drawn(patients, seed, images, own_class)
        made = [Conformal.of_rows(rows, truth, COVERAGE, groups=each) for each in (None, groups)]
        held = (each.sets(probs).gather(1, labels[:, None])[:, 0] for each in made)
        found.append([mean_over_patients(each, of) for each in held])
    return torch.tensor(found, dtype=torch.float64)


def open_answers(patients: int, max_error: float, draws: int = DRAWS) -> tuple[float, float]:
    """In which share of draws the mean error over patients exceeds what was asked, and the mean share of answers."""
    probs, labels, of = drawn(OTHERS, draws, 12, False)
    (sure, answer), over, given = probs.max(dim=1), 0, 0.0
    for seed in range(draws):
        rows, truth, groups = drawn(patients, seed, 12, False)
        confidence, named = rows.max(dim=1)
        least = answer_threshold(confidence, named == truth, max_error, groups=groups).least
        some = sure >= least
        over += mean_over_patients((answer != labels)[some], of[some]) > max_error
        given += float(some.double().mean())
    return over / draws, given / draws


def lines(data: Path) -> Iterator[str]:
    """A row per number of patients, their images and classes."""
    yield "| patients | images of each | class | images counted | patients counted | 19 of 20 lie within |"
    yield "|---:|---:|---|---:|---:|---:|"
    for patients, (size, images), own in product(PATIENTS, SIZES.items(), (True, False)):
        found = 100 * coverages(patients, images, own)
        low, high = coverage_range(patients, COVERAGE)
        cells = [f"{c.mean():.1f} ± {c.std(correction=0):.1f}, lowest {c.min():.1f}" for c in found.T]
        whose = "one per patient" if own else "one per image"
        yield f"| {patients} | {size} | {whose} | {' | '.join(cells)} | {100 * low:.0f} to {100 * high:.0f} |"


def open_lines(data: Path) -> Iterator[str]:
    """A row per number of patients."""
    asked = " | ".join(f"at most {error:.0%} wrong" for error in ERRORS)
    yield f"| patients | {asked} |"
    yield f"|---:|{'---:|' * len(ERRORS)}"
    for patients in OPEN_PATIENTS:
        cells = (open_answers(patients, error) for error in ERRORS)
        yield f"| {patients} | {' | '.join(f'{100 * given:.0f}, {100 * over:.1f}' for over, given in cells)} |"
