"""A comparison of methods over shots and seeds on one test set, with paired intervals over places."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...contracts.task import Contest
from ...metrics.intervals import LEVEL
from ...metrics.numbers import NumberSums
from ...metrics.significance import exchange_test, holm
from .heads import NumberHead, NumberRows, fitted_ridge, mean_head
from .prepared import PreparedNumbers
from .scoring import BASELINES, DECIDING, RIDGE, TRAIN_MEAN

Fit = Callable[[str, Sequence[Any], NumberRows, int], tuple[NumberHead, NumberRows]]
COMPARED = "r2"
"""The metric that a comparison is about, of which more is better."""


class NumberContest(Contest):
    """Fits on the same data.

    Args:
        prepared: the data.
        fit: (method, training samples, their frozen features, seed) -> its head, and the test rows as it sees them.
    """

    def __init__(self, prepared: PreparedNumbers, fit: Fit):
        super().__init__(prepared.data.name, list(prepared.data.notes), deciding=COMPARED)
        self.prepared, self.fit = prepared, fit
        self.test = prepared.rows(prepared.split("test"), "test images")
        self._sums: dict[tuple[str, int | None], list[NumberSums]] = {}

    def left_out(self) -> Sequence[tuple[str, str]]:
        return [*self.prepared.data.skipped, *self.prepared.skipped]

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of one fit on the test set."""
        name, shots, started = entry["adapter"], entry["shots"], time.perf_counter()
        items = self.prepared.drawn(shots, entry["seed"])
        rows, test = self.prepared.rows(items, "training images"), self.test
        if name in BASELINES:
            head = mean_head(rows) if name == TRAIN_MEAN else fitted_ridge(rows)
        else:
            head, test = self.fit(name, items, rows, entry["seed"])
        answers = head.answers(test.features)
        about_train, about_test = (
            NumberSums.of(answers, test.numbers, float(of.numbers.mean()), test.groups) for of in (rows, self.test)
        )
        self._sums.setdefault((name, shots), []).append(about_test)
        return {**about_train.metrics(), "images": len(rows), "seconds": round(time.perf_counter() - started, 3)}

    def judged(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each method against the better baseline at the same number of shots, its fits of all seeds together; nothing
        for a method of which a fit is missing."""
        fits = Counter((entry["adapter"], entry["shots"]) for entry in entries)
        whole = {key: of for key, of in self._sums.items() if len(of) == fits[key]}
        tests = []
        for shots in dict.fromkeys(key[1] for key in whole):
            at = {name: _together(of) for (name, k), of in whole.items() if k == shots}
            if set(BASELINES) <= set(at):
                tests += self._against_the_better(shots, at)
        return tests

    def _against_the_better(self, shots: int | None, at: Mapping[str, NumberSums]) -> list[dict[str, Any]]:
        better = min((TRAIN_MEAN, RIDGE), key=lambda name: at[name].metrics()[DECIDING] or 0.0)
        names = [name for name in at if name not in BASELINES]
        level = 1 - (1 - LEVEL) / max(1, len(names))  # of all intervals together, as p values are adjusted
        gains = {name: at[name].gain(at[better], COMPARED, level) for name in names}
        p_values = {name: exchange_test(_squared(at[better]) - _squared(at[name])) for name in names}
        adjusted = dict(zip(names, holm([p_values[name] for name in names])))
        units = {"test_images": len(self.test)}
        units |= {"test_groups": at[better].units} if at[better].units < len(self.test) else {}
        return [
            {
                "adapter": name,
                "shots": shots,
                "baseline": better,
                "metric": COMPARED,
                "difference": gains[name].value,
                "interval": gains[name].interval,
                "p_value": p_values[name],
                "p_holm": adjusted[name],
                "test": "permutation test of squared errors",
                **units,
            }
            for name in names
        ]


def _together(fits: Sequence[NumberSums]) -> NumberSums:
    """The errors of several fits on the same images, by place."""
    return NumberSums(torch.stack([each.sums for each in fits]).sum(dim=0), fits[0].centre)


def _squared(sums: NumberSums) -> torch.Tensor:
    """(U,) the squared error of each place."""
    return sums.sums[:, 2]
