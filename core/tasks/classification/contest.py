"""A comparison of methods on one data set: each fit on the same shots and splits, tests against the best baseline."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.features import FeatureSet
from ...contracts.images import TrainingPlace
from ...contracts.judgement import Scores
from ...contracts.prepared import PreparedData, Shots
from ...contracts.task import Contest
from ...data.file_hashes import FileHashes
from ...data.splits import fold_split, resplit
from ...judgements.baselines import GUESSING, class_range, deciding_metric, weights_of_answers
from ...metrics.intervals import Difference, paired_shares, units_of
from ...metrics.score_intervals import Aurocs, auroc_difference
from ...metrics.significance import adjusted_level, holm
from ...registry import adapter_class
from ...runs.sections import AT_HALF
from ...runtime.progress import Reporter
from .fitting import (
    NOWHERE,
    Augmentation,
    fewer_views,
    fit_adapter,
    notes_on_augmentation,
    parts_wanted,
    refitted,
)
from .protocols import OWN, ZERO_SHOT, Protocol, Setting
from .resources import check_needs
from .scoring import LARGEST_CLASS, MOST_PROBED, PROBE, largest_class, score_on

MOST_RANKED = 20_000_000
"""Logits of all fits together up to which AUROCs on one test set are compared."""
SMALL_TEST_SET = 300
"""Test images below which a comparison is repeated on other splits, unless it is told otherwise."""
REPEATS, REPEATS_OF_TOWERS = 10, 3
GIVEN_SPLITS = (
    "The data name their test images, which are never split again: the spread is only that of the drawn shots"
)


class ClassificationContest(Contest):
    """Fits on the same shots.

    Args:
        repeated: the data, on one split after another.
        adapters: name -> adapter, not fitted.
        augmented: name -> how its images are augmented, of methods that have images augmented.
        protocol: how shots are drawn.
        setting: what its numbers are of, in the words of papers; None where no published one is comparable.
        val_shots: as for `Protocol.drawing`.
        refit: whether methods learn from the images of val too, once their settings are chosen.
        place: of trainings, which keep nothing; its hooks hear of them.
        seed: of what zero-shot draws, the same for all draws of shots.
        notes: what judgements say of the data.

    Attributes:
        probe_asked: whether the linear probe is one of the methods, and not a baseline of a few hundred images only.
        seeds_given: whether every split has all seeds; if not, each has one of its own.
        at_once: what transductive methods read, in words; "" where nothing need be said.
    """

    at_once: ClassVar[str] = "all test images at once"

    def __init__(
        self,
        repeated: RepeatedSplits,
        adapters: Mapping[str, Adapter],
        augmented: Mapping[str, Augmentation],
        *,
        protocol: Protocol = OWN,
        setting: Setting | None = None,
        val_shots: int | str | None = None,
        refit: bool = False,
        place: TrainingPlace = NOWHERE,
        seed: int = 1,
        notes: Sequence[str] = (),
    ):
        prepared = repeated.prepared
        super().__init__(prepared.data.name, [*prepared.notes, *notes, *repeated.notes])
        self.prepared, self.repeated, self.adapters = prepared, repeated, adapters
        self.protocol, self.setting, self.seed = protocol, setting, seed
        self.val_shots, self.refit, self.place = val_shots, refit, place
        self.splits, self.test_over_train = repeated.count, repeated.test_over_train
        self.baselines = (ZERO_SHOT, LARGEST_CLASS, GUESSING, PROBE)
        self.deciding = self._deciding()
        self.notes += protocol.notes()
        self.probe_asked, self.seeds_given = True, True
        self._augmented = augmented
        self.notes += notes_on_augmentation(augmented)
        self._parts = any(parts_wanted(adapter) for adapter in adapters.values())
        self._drawn: tuple[tuple[int | None, int, int], dict[str, Shots]] | None = None
        self._first_seed: int | None = None
        self._tested = Tested()

    def left_out(self) -> list[tuple[str, str]]:
        return [*self.prepared.data.skipped, *self.prepared.skipped]

    def note_readers(self, names: Collection[str], shots: Sequence[int | None]) -> None:
        """Note which methods read all test images at once, at these numbers of shots."""
        readers = [name for name in names if adapter_class(name).transductive]
        if 0 in shots:
            readers += [f"{name} (at 0 shots)" for name in names if adapter_class(name).transductive_unlabelled]
        if readers and self.at_once:
            who = ", ".join(readers)
            self.notes.append(f"{who} read {self.at_once}, without their labels; the others see one at a time")

    def of_split(self, entry: Mapping[str, Any], split: int) -> dict[str, Any] | None:
        """All seeds on each split where seeds are given; else a seed of its own for each."""
        if self.seeds_given:
            return super().of_split(entry, split)
        self._first_seed = entry["seed"] if self._first_seed is None else self._first_seed
        return {**entry, "seed": entry["seed"] + split, "split": split} if entry["seed"] == self._first_seed else None

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Metrics of one method on one draw; None where too many images are labelled for the linear probe to be a
        matter of course."""
        name, seed, prepared = entry["adapter"], entry["seed"], self.repeated[entry.get("split", 0)]
        if name == LARGEST_CLASS:
            return self._floor(prepared, entry)
        shots = self._draw(prepared, entry)
        if name == PROBE and not self.probe_asked and len(shots.support) > MOST_PROBED:
            return None
        started = time.perf_counter()
        if name == ZERO_SHOT:
            adapter = self.zero_shot(prepared, shots.support)
            if adapter is None:
                return None
        else:
            adapter = self.fit(name, prepared, shots, seed)
        seconds = time.perf_counter() - started
        quiet = Reporter(quiet=True)
        scores = score_on(prepared, adapter, shots.test, prepared.class_names, None, quiet)
        if self.splits == 1:
            self._tested.add(name, entry["shots"], scores)
        result = None if self.setting is None else self.setting.result(name, entry["shots"])
        published = {} if result is None else result.columns
        return {**as_uncalibrated(scores), "seconds": round(seconds, 3), **published}

    def fit(self, name: str, prepared: PreparedData, shots: Shots, seed: int) -> Adapter:
        """One method on one draw."""
        adapter, quiet = deepcopy(self.adapters[name]), Reporter(quiet=True)
        check_needs(prepared, adapter)
        report = fit_adapter(adapter, prepared, shots, seed, quiet, self.place)
        return refitted(adapter, report, prepared, shots, seed, quiet, self.place)[0] if self.refit else adapter

    def zero_shot(self, prepared: PreparedData, rows: FeatureSet) -> Adapter | None:
        """Zero-shot with the options that were given for it; None where there are no texts."""
        if not prepared.classifier.has_texts:
            return None
        adapter = deepcopy(self.adapters[ZERO_SHOT])
        adapter.fit(rows, prepared.classifier, backbone=prepared.backbone, seed=self.seed)
        return adapter

    def judged(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each method against the best baseline on the one test set, by each metric that may decide."""
        return self._tested.judged(entries, self.baselines) if self.splits == 1 else []

    def _floor(self, prepared: PreparedData, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """What takes no model: always the largest class; with several labels an AUROC of 0.5."""
        items, classes = prepared.data.split("test"), len(prepared.class_names)
        if prepared.data.kind == "multilabel":
            return {"adapter": GUESSING, "auroc": 0.5, "seconds": 0.0}
        metrics = largest_class(items, classes)
        if metrics is not None and self.splits == 1:
            self._tested.add_largest(entry["shots"], torch.tensor([item.class_label() for item in items]))
        return metrics

    def _deciding(self) -> str:
        """Balanced accuracy where the classes of the test set are unequal."""
        labels = [item.class_label() for item in self.prepared.data.split("test")]
        if self.prepared.data.kind == "multilabel" or None in labels:
            return ""
        if self.protocol.deciding:
            return self.protocol.deciding
        chosen, labels = deciding_metric(torch.tensor(labels)), torch.tensor(labels)
        if chosen == "balanced_accuracy":
            fewest, most = class_range(labels)
            self.notes.append(
                f"Balanced accuracy decides, because the classes of the test set are unequal ({fewest} to {most} "
                "images)"
            )
        return chosen

    def _draw(self, prepared: PreparedData, entry: Mapping[str, Any]) -> Shots:
        """The shots of one draw, with the views of its method. The last draw is kept, and with it one set of views per
        way of augmenting: as many as whoever wants most of them."""
        augmentation = self._augmented.get(entry.get("adapter"), Augmentation())
        key = (entry["shots"], entry["seed"], entry.get("split", 0))
        if self._drawn is None or self._drawn[0] != key:
            plain = prepared.draw(*key[:2], parts=self._parts, **self.protocol.drawing(key[0], self.val_shots))
            self._drawn = key, {"": plain}
        drawn, spec = self._drawn[1], augmentation.spec
        if spec not in drawn:
            most = max(each.views for each in self._augmented.values() if each.spec == spec)
            drawn[spec] = prepared.augmented(drawn[""], most, augmentation.transform)
        return fewer_views(drawn[spec], augmentation.views)


class Tested:
    """What fits answered on one test set.

    Attributes:
        right: (method, shots) -> per seed (N,) which images are right.
        logits: (method, shots) -> per seed (N, C), where images have several labels.
    """

    def __init__(self):
        self.right: dict[tuple, list[Tensor]] = {}
        self.logits: dict[tuple, list[Tensor]] = {}
        self.labels: Tensor | None = None
        self.groups: Sequence[str] | None = None

    def add(self, name: str, shots: int | None, scores: Scores) -> None:
        if scores.labels is None:
            return
        self.labels, self.groups = scores.labels, scores.groups
        if scores.labels.ndim == 2:
            self.logits.setdefault((name, shots), []).append(scores.adapted_logits)
        else:
            right = scores.adapted_logits.argmax(dim=1) == scores.labels
            self.right.setdefault((name, shots), []).append(right)

    def add_largest(self, shots: int | None, labels: Tensor) -> None:
        self.right.setdefault((LARGEST_CLASS, shots), []).append(labels == int(torch.bincount(labels).argmax()))

    def judged(self, entries: Sequence[Mapping[str, Any]], baselines: Sequence[str]) -> list[dict[str, Any]]:
        """See `ClassificationContest.judged`; nothing for methods of which a fit of `entries` is missing."""
        if self.labels is None:
            return []
        entries_per_fit: dict[tuple, int] = {}
        for entry in entries:
            key = (entry["adapter"], entry["shots"])
            entries_per_fit[key] = entries_per_fit.get(key, 0) + 1
        fits = self.logits or self.right
        if self.logits and sum(each.numel() for of in fits.values() for each in of) > MOST_RANKED:
            return []
        whole = {key: of for key, of in fits.items() if entries_per_fit.get(key) == len(of)}
        tests = []
        for metric in ("auroc",) if self.logits else ("accuracy", "balanced_accuracy"):
            for shots in dict.fromkeys(key[1] for key in whole):
                at = {name: torch.stack(of) for (name, k), of in whole.items() if k == shots}  # (S, N) or (S, N, C)
                tests += self._against_the_best(metric, shots, at, baselines)
        return tests

    def _against_the_best(
        self, metric: str, shots: int | None, at: Mapping[str, Tensor], baselines: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Of the fits of each method."""
        if metric == "auroc":
            aurocs = {name: Aurocs.of(fits, self.labels, self.groups) for name, fits in at.items()}
            if not all(map(len, aurocs.values())):  # no label has both values
                return []
            means = {name: of.macro for name, of in aurocs.items()} | {GUESSING: 0.5}
        else:
            weights = weights_of_answers(self.labels, metric)
            means = {name: float((fits.double() * weights).sum(dim=1).mean()) for name, fits in at.items()}
        candidates = [name for name in baselines if name in means]
        if not candidates:
            return []
        best, tests = max(candidates, key=means.get), []
        tested = [name for name in at if name not in baselines]
        if metric == "auroc":
            gains = [auroc_difference(aurocs.get(best), aurocs[name]) for name in tested]
        else:
            gains = [self._gain(at[best], at[name], metric) for name in tested]
        adjusted = holm([gain.p_value for gain in gains])
        for name, gain, p_holm in zip(tested, gains, adjusted):
            interval = gain.interval(adjusted_level(gain.p_value, p_holm))
            tests.append(
                {
                    "adapter": name,
                    "shots": shots,
                    "baseline": best,
                    "metric": metric,
                    "difference": gain.value,
                    "interval": None if interval is None else list(interval),
                    "p_value": gain.p_value,
                    "test_images": len(self.labels),
                    "p_holm": p_holm,
                }
            )
        groups = {} if self.groups is None else {"test_groups": units_of(self.groups, len(self.labels))[1]}
        return [{**each, **groups} for each in tests]

    def _gain(self, before: Tensor, after: Tensor, metric: str) -> Difference:
        """Of shares; where there are different numbers of seeds, each is paired with each."""
        if len(before) != len(after):
            before, after = before.repeat(len(after), 1), after.repeat_interleave(len(before), dim=0)
        return paired_shares(before, after, self.groups, self.labels if metric == "balanced_accuracy" else None)


def as_uncalibrated(scores: Scores) -> dict[str, Any]:
    """Metrics under the names that they have where nothing is calibrated and no threshold is chosen."""
    raw = {"ece": "ece_uncalibrated"}
    if scores.labels is not None and scores.labels.ndim == 2:
        raw |= {key: f"{key}{AT_HALF}" for key in ("macro_f1", "accuracy")}
    return {raw.get(key, key): value for key, value in scores.adapted.items()}


@dataclass
class RepeatedSplits:
    """Splits of one data set.

    Args:
        prepared: on the first split.
        seed: of the first split.
        count: how many.
        folds: whether their test sets share out the data.
        asked: whether the user gave their number.
    """

    prepared: PreparedData
    seed: int
    count: int = 1
    folds: bool = False
    asked: bool = False
    _latest: tuple[int, PreparedData] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(
        cls, prepared: PreparedData, seed: int, splits: int | None, folds: int | None, towers: bool
    ) -> RepeatedSplits:
        """As many as are asked for; by default 10 where there are fewer than 300 test images (3 where towers are
        trained), else one. Splits that the data bring are kept.

        Args:
            splits, folds: as the user gave them.
            towers: whether a method trains towers.
        """
        few = len(prepared.data.split("test")) < SMALL_TEST_SET
        count = folds or splits or ((REPEATS_OF_TOWERS if towers else REPEATS) if few else 1)
        asked = bool(folds or splits)
        if prepared.had_splits:
            return cls(prepared, seed, asked=asked)
        return cls(prepared, seed, count, bool(folds), asked)

    @property
    def notes(self) -> list[str]:
        """What a user should know of them."""
        images = len(self.prepared.data.split("test"))
        if self.prepared.had_splits:
            return [GIVEN_SPLITS] if self.asked or images < SMALL_TEST_SET else []
        if self.count == 1:
            return [f"Compared on one test set of {images} images; --splits 10 shows what other test sets would give"]
        how = f"{self.count} folds" if self.folds else f"{self.count} splits into train, val and test"
        size = f"{len(self.prepared.data.items) // self.count} test images" if self.folds else f"{images} test images"
        why = (
            ""
            if self.asked
            else f"; fewer than {SMALL_TEST_SET} are too few for one split, and --splits 1 compares on one"
        )
        return [f"Compared on {how}, with about {size} each{why}"]

    @property
    def test_over_train(self) -> float:
        """Test images of a split divided by all its others."""
        tested, every = len(self.prepared.data.split("test")), len(self.prepared.data.items)
        return 1 / (self.count - 1) if self.folds else tested / max(1, every - tested)

    def __getitem__(self, number: int) -> PreparedData:
        """The data on one split; the latest is kept."""
        if self.count == 1:
            return self.prepared
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self._made(number)
        return self._latest[1]

    def _made(self, number: int) -> PreparedData:
        if number == 0 and not self.folds:
            return self.prepared
        options = {"seed": self.seed, "hashes": FileHashes()}
        if self.folds:
            data = fold_split(self.prepared.data, number, self.count, **options)
        else:
            data = resplit(self.prepared.data, number, **options)
        return replace(self.prepared, data=data)
