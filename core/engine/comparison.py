"""What a comparison measured: a table over shots, and tests against the best baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contracts.shown import in_short
from ..metrics.significance import adjusted_level, corrected_interval, corrected_t_test, holm
from .front import ImageCost, front


@dataclass
class Comparison:
    """What `compare` measured.

    Attributes:
        rows: one dict per fit: the method, shots, seed, and metrics.
        csv: file of the rows.
        plot: PNG of the deciding metric over shots; an SVG lies beside it.
        refused: method -> why it could not run on this data.
        notes: sentences for the user.
        method: the column that names the method ("adapter", "recipe").
        metric: the deciding metric.
        baselines: methods that the others are compared with.
        test_over_train: of each data set, test images of a split divided by all its others.
        paired: of data sets with one test set, what `Contest.judged` gives.
        published_means: over these data sets, what `Task.published_means` gives.
        skipped: (name, reason) of what could not be read.
        costs: backbone -> what its image tower costs, where several are compared.
    """

    __repr__ = in_short

    rows: list[dict[str, Any]]
    csv: Path
    plot: Path
    refused: dict[str, str]
    notes: list[str]
    method: str = "adapter"
    metric: str = "accuracy"
    baselines: tuple[str, ...] = ()
    test_over_train: Mapping[str, float] = field(default_factory=dict)
    paired: list[dict[str, Any]] = field(default_factory=list)
    published_means: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    costs: dict[str, ImageCost] = field(default_factory=dict)

    def summary(self) -> list[dict[str, Any]]:
        """One dict per method, shots and data set, or kind of tasks.

        "mean" and "std" (population) of the deciding metric are over splits, over seeds where there is one split, and
        the deviation is over tasks where there are kinds of tasks; it is None of a single number. "seconds" is the mean
        of a fit. `data` is "" where there is one set; "source" is the set that was fitted on, where others are tested.
        Where a published accuracy is comparable, "published", "published_in" and "published_difference", of the mean.
        """
        groups: dict[tuple[str, int, str, str, str], list[dict[str, Any]]] = {}
        for row in self.rows:
            if row.get(self.metric) is not None:
                key = (row[self.method], *_place(row))
                groups.setdefault(key, []).append(row)
        return [
            {
                self.method: method,
                "shots": shots,
                "data": data,
                **({"backbone": backbone} if backbone else {}),
                **({"source": rows[0]["source"]} if rows[0].get("source") else {}),
                **({"tasks": tasks, "task_count": rows[0]["task_count"]} if tasks else {}),
                "metric": self.metric,
                "mean": statistics.fmean(row[self.metric] for row in rows),
                **self._published(rows),
                "std": _spread(rows, self.metric),
                "seeds": len({row["seed"] for row in rows}),
                "splits": len({row.get("split", 0) for row in rows}),
                "seconds": statistics.fmean(row["seconds"] for row in rows),
            }
            for (method, shots, data, backbone, tasks), rows in groups.items()
        ]

    def front(self) -> list[dict[str, Any]]:
        """One dict per backbone where several are compared, the fastest first: "backbone", "milliseconds" and "gflop"
        of one image, "parameters" of the image tower in millions, "metric" and "score", the method that reaches it, and
        "on_front": whether no faster backbone is as good."""
        return front(self.costs, self.summary(), self.method)

    def published(self) -> list[dict[str, Any]]:
        """The rows of `summary` with a published accuracy, and the means over data sets with one, whose "data" is
        "mean"."""
        summary, differences = self.summary(), []
        sets = {row["data"] for row in summary}
        for each in self.published_means:
            of = [row for row in summary if (row[self.method], row["shots"]) == (each[self.method], each["shots"])]
            if self.metric != "accuracy" or {row["data"] for row in of} != sets:
                continue  # refused on some of the sets: a mean of others
            mean = statistics.fmean(row["mean"] for row in of)
            difference = {"mean": mean, "published_difference": mean - each["published"]}
            differences.append({**each, "data": "mean", "metric": self.metric, **difference})
        return [row for row in summary if "published" in row] + differences

    def _published(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self.metric != "accuracy" or rows[0].get("published") is None:
            return {}
        paper = {key: rows[0][key] for key in ("published", "published_in")}
        return {**paper, "published_difference": statistics.fmean(row["accuracy"] for row in rows) - paper["published"]}

    def tests(self) -> list[dict[str, Any]]:
        """Each method against the best baseline: one dict per method, shots and data set, with "baseline",
        "difference" of the means, its "interval", "p_value", and "p_holm", adjusted for the number of methods, as is
        the level of the interval (`adjusted_level`). Over "splits" the interval and the p values are those of the
        corrected resampled t-test, and None of fewer than five; on one test set of "test_images" they are of a paired
        test over the images, or of "test_groups"."""
        tests = [each for each in self.paired if each["metric"] == self.metric]
        for place in dict.fromkeys(_place(row) for row in self.rows if "split" in row):
            values: dict[str, dict[int, float]] = {}
            for method in dict.fromkeys(row[self.method] for row in self.rows):
                rows = [row for row in self.rows if row[self.method] == method and _place(row) == place]
                scored = [row for row in rows if row.get(self.metric) is not None]
                if scored:
                    values[method] = _of_splits(scored, self.metric)
            tests += self._tests_at(place, values)
        return tests

    def _tests_at(self, place: tuple, values: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
        of = {name: statistics.fmean(values[name].values()) for name in self.baselines if name in values}
        if not of:
            return []
        best, overlap = max(of, key=of.get), self.test_over_train.get(place[1], 0.0)
        gains = {
            method: [of_splits[split] - values[best][split] for split in sorted(of_splits.keys() & values[best].keys())]
            for method, of_splits in values.items()
            if method not in self.baselines
        }
        p_values = {method: corrected_t_test(of, overlap) for method, of in gains.items()}
        defined = {method: p_value for method, p_value in p_values.items() if p_value is not None}
        adjusted = dict(zip(defined, holm(list(defined.values()))))
        backbone = {"backbone": place[2]} if place[2] else {}
        return [
            {
                self.method: method,
                "shots": place[0],
                "data": place[1],
                "baseline": best,
                **backbone,
                "metric": self.metric,
                "difference": statistics.fmean(of),
                "interval": list(corrected_interval(of, overlap, adjusted_level(defined[method], adjusted[method])))
                if method in defined
                else None,
                "p_value": p_values[method],
                "splits": len(of),
                "p_holm": adjusted.get(method),
            }
            for method, of in gains.items()
            if len(of) > 1
        ]


def _place(row: Mapping[str, Any]) -> tuple:
    return row["shots"], row.get("data", ""), row.get("backbone", ""), row.get("tasks", "")


def _spread(rows: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Over splits or seeds; over the tasks of the one draw of tasks; None of a single number."""
    if len(rows) == 1 and rows[0].get(f"{metric}_std") is not None:
        return rows[0][f"{metric}_std"]
    values = _of_splits(rows, metric).values()
    return statistics.pstdev(values) if len(values) > 1 else None


def _of_splits(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """Split -> mean over its seeds; of one split seed -> value."""
    key = "split" if len({row.get("split", 0) for row in rows}) > 1 else "seed"
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row[key], []).append(row[metric])
    return {each: statistics.fmean(of) for each, of in values.items()}
