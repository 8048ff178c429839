"""How often conformal intervals around numbers hold the true one, over 200 drawn sets whose places differ.

    python benchmarks/number_intervals.py

Each set has places for training, places for calibration and 20 places for testing. A place shifts all its numbers and
has 2 to 40 images; in half of the sets the errors of places with few images are up to three times as large. Ridge is
fitted, 90 % intervals are calibrated on the calibration places, and coverage is the mean over the test places of the
share of their images whose true number is held. `places counted once` is what vladapt does; `images counted alone`
ignores places; `adaptive` predicts how wide each interval should be.
"""

from __future__ import annotations

import torch
from usage import print_help

from vladapt.core.tasks.regression.heads import NumberHead, NumberRows, fitted_ridge

SETS, WIDTH, COVERAGE, TRAINING, TESTED = 200, 8, 0.9, 20, 20
SETTINGS = [(10, 0.0), (10, 1.0), (20, 1.0), (20, 2.0), (40, 2.0)]
"""Calibration places, and how far places shift their numbers, in deviations of the noise."""


def drawn(places: int, shift: float, uneven: bool, generator: torch.Generator) -> NumberRows:
    """Images of some places, each with features, and with a number that they tell in part."""
    sizes = torch.randint(2, 41, (places,), generator=generator)
    place = torch.arange(places).repeat_interleave(sizes)  # (N,)
    features = torch.randn(len(place), WIDTH, generator=generator)
    noise = 1 + (uneven * 2 * (1 - sizes / 40))[place]
    numbers = 2 * features[:, 0] - features[:, 1] + shift * torch.randn(places, generator=generator)[place]
    numbers = numbers + noise * torch.randn(len(place), generator=generator)
    groups, ids = tuple(f"place {n}" for n in place.tolist()), tuple(map(str, range(len(place))))
    return NumberRows(torch.nn.functional.normalize(features, dim=1), numbers.double(), groups, ids)


def alone(rows: NumberRows) -> NumberRows:
    """The same, as if no image belonged to another."""
    return NumberRows(rows.features, rows.numbers, (None,) * len(rows), rows.ids)


def held(head: NumberHead, test: NumberRows) -> tuple[float, float]:
    """Coverage over places, and the mean width."""
    answers, scales = head.answers(test.features), head.scales(test.features)
    scores = head.intervals.scores(answers, test.numbers, test.groups, scales)
    return scores["coverage"], scores["mean_width"]


def of_set(seed: int, places: int, shift: float) -> list[tuple[float, float]]:
    """(Coverage, width) with places counted once, with images counted alone, and with adaptive widths."""
    generator = torch.Generator().manual_seed(seed)
    made = [drawn(count, shift, seed % 2 == 1, generator) for count in (TRAINING, places, TESTED)]
    training, calibration, test = made
    head, measured = fitted_ridge(training), []
    for rows in (calibration, alone(calibration)):
        head.calibrate(rows, COVERAGE)
        measured.append(held(head, test))
    head.learn_errors(training)
    head.calibrate(calibration, COVERAGE)
    return [*measured, held(head, test)]


def main() -> None:
    print("| calibration places | shift of places | places counted once | images counted alone | adaptive |")
    print("|---|---|---|---|---|")
    for places, shift in SETTINGS:
        measured = torch.tensor([of_set(seed, places, shift) for seed in range(SETS)], dtype=torch.float64)
        mean, error = measured.mean(dim=0), measured.std(dim=0) / SETS**0.5  # (3, 2)
        cells = [
            f"{100 * mean[n, 0]:.1f} ± {100 * error[n, 0]:.1f} % (width {mean[n, 1]:.2f})" for n in range(len(mean))
        ]
        print(f"| {places} | {shift:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    print_help(__doc__)
    main()
