"""Calibration: confidences that agree with how often they are right, and what a run keeps to give them.

A run keeps scores of labelled images that chose nothing, and what was made of them, in one safetensors file of its
folder: tensors in the body, JSON in the header, no pickle. Logits are scaled by a temperature with one label per image
("On Calibration of Modern Neural Networks", Guo et al. 2017, arXiv 1706.04599), by one slope and offset per label with
several ("Probabilistic Outputs for Support Vector Machines", Platt 1999).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.run_info import RunInfo
from ..errors import ConfigError, DataError
from ..metrics.significance import calibration_curve
from ..runtime.files import read_tensors, write_tensors
from .conformal import Conformal, LabelSets, number_of
from .selective import Abstention, Selective, Unlike, answer_threshold

CALIBRATION = "calibration.safetensors"
FORMAT = 1
TABLE_COVERAGES = (0.8, 0.9, 0.95)
"""Coverages that reports show, and exports keep thresholds for."""
UNCALIBRATED = "this run has no calibration rows"
HALF = 0.5
"""The threshold of a label that too few rows tell another of."""
LOWEST, HIGHEST = 1e-6, 1e5
"""Temperatures. A linear probe under its strongest penalty has logits of some 1e-4, a Gaussian classifier of a large
alpha some 1e4, which must become confidences."""
FLATTEST = 1e3
"""Highest temperature of one label among several, whose ranks stay in single precision."""
HALVINGS = 50
"""Of a search on a logarithmic scale, which ends near the precision of float64."""
HELD_OUT = 5
"""Parts of the rows on which scalings are judged that were fitted to the others."""
MOST_HELD_OUT = 100_000
"""Logits up to which that is done."""
FEWEST_OF_EACH = 3
"""Positives and negatives without which a label is left as it is."""


@dataclass(frozen=True)
class Calibration:
    """Scores of calibration rows, and what follows of them.

    Attributes:
        logits: (n, C) of the method, fitted without these rows.
        labels: (n,) class indices, or (n, C) 0/1 with NaN where unknown.
        weights: (n,), or (n, C): of how many ordinary images a row stands, where classes are not as frequent among the
            rows as in the training images; None where they are.
        row_weights: (n,), with several labels: of how many images that have a label a row stands; None: one.
        groups: (n,) int64 number of the group of each row, a patient say; None where each row stands alone.
        class_names: C names.
        source: what the rows are, in words.
        scaling: what makes confidences of logits.
        thresholds: (C,) from which probability on an image has a label, or None with one label per image.
        unlike: what tells unlike images, or None.
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor | None
    class_names: tuple[str, ...]
    source: str
    scaling: Scaling
    thresholds: Tensor | None = None
    unlike: Unlike | None = None
    row_weights: Tensor | None = None
    groups: Tensor | None = None

    @classmethod
    def of_rows(
        cls,
        logits: Tensor,
        labels: Tensor,
        class_names: tuple[str, ...],
        source: str,
        weights: Tensor | None = None,
        unlike: Unlike | None = None,
        row_weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Calibration:
        """All that can be made of calibration rows; see the attributes."""
        logits, labels = logits.detach().float().cpu(), labels.detach().cpu()
        scaling = Scaling.fit_if_better(logits, labels, weights)
        several = labels.ndim == 2
        thresholds = _label_thresholds(scaling.probabilities(logits, True), labels, weights) if several else None
        names = tuple(class_names)
        return cls(logits, labels, weights, names, source, scaling, thresholds, unlike, row_weights, groups)

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, C) float64 calibrated: rows summing to 1, or one probability per label."""
        return self.scaling.probabilities(logits, self.multilabel)

    @cached_property
    def row_probabilities(self) -> Tensor:
        """(n, C) those of the calibration rows."""
        return self.probabilities(self.logits)

    def answers(self, logits: Tensor) -> Tensor:
        """(N, C) bool: with several labels, which of them an image is said to have, each from its own threshold on."""
        return self.answers_of(self.probabilities(logits))

    def answers_of(self, probs: Tensor) -> Tensor:
        """The same of probabilities."""
        return probs >= self.thresholds

    def conformal(self, coverage: float, method: str | None = None, per_class: bool = False) -> Conformal | LabelSets:
        """Sets of classes with a coverage; with several labels sets that hold such a share of the true ones.

        Args:
            method: of `SET_METHODS`, by default "lac"; None with several labels.
            per_class: whether each class is held as often; False with several labels.

        Raises:
            ConfigError: no such coverage or method.
        """
        if not self.multilabel:
            of_rows = (
                self.row_probabilities,
                self.labels,
                coverage,
                method or "lac",
                self.weights,
                self.groups,
                per_class,
            )
            return Conformal.of_rows(*of_rows)
        if method is not None:
            raise ConfigError(f"--set-method {method}: for images with one label each; omit it")
        if per_class:
            raise ConfigError("--coverage-per class: for images with one label each; omit it")
        named = () if self.thresholds is None else self.thresholds.tolist()
        return LabelSets.of_rows(self.row_probabilities, self.labels, coverage, self.row_weights, self.groups, named)

    def abstentions(self, max_error: float) -> list[Abstention]:
        """From which certainty on an answer is given: one for all answers, or one per label.

        Raises:
            ConfigError: no such error.
        """
        if not self.multilabel:
            confidence, answer = self.row_probabilities.max(dim=1)
            right = answer == self.labels
            return [answer_threshold(confidence, right, max_error, self.weights, groups=self.groups)]
        certain, of_labels = self.certainty(self.row_probabilities), []
        for c in range(len(self.class_names)):
            known = ~self.labels[:, c].isnan()
            right = (self.row_probabilities[:, c] >= self.thresholds[c]) == (self.labels[:, c] == 1)
            weights = None if self.weights is None else self.weights[known, c]
            groups = None if self.groups is None else self.groups[known]
            of_labels.append(answer_threshold(certain[known, c], right[known], max_error, weights, groups=groups))
        return of_labels

    def certainty(self, probs: Tensor) -> Tensor:
        """How sure answers are: (N,) the confidence of the best class; with several labels (N, C), how far the log odds
        of each label lie from its threshold."""
        if not self.multilabel:
            return probs.max(dim=1).values
        return (_log_odds(probs) - _log_odds(self.thresholds)).abs()

    def open_answers(self, probs: Tensor, max_error: float) -> Tensor:
        """(N,), or (N, C) per label, bool: which answers are left open, so that the error of the rest stays below."""
        least = torch.tensor([each.least for each in self.abstentions(max_error)], dtype=torch.float64)
        return self.certainty(probs) < least

    def selective(
        self, probs: Tensor, labels: Tensor, max_error: float, groups: Sequence[str] | None = None
    ) -> Selective:
        """Share of the answers to other images that are left open, and the error of the others with its interval, the
        mean over groups where images belong to some; with several labels, over all known labels, those of one image
        together."""
        left = self.open_answers(probs, max_error)
        units = [group or f"image {row}" for row, group in enumerate(groups or [""] * len(labels))]
        if self.multilabel:
            known = ~labels.isnan()
            right = (self.answers_of(probs) == (labels == 1))[known]
            left = left[known]
            units = [units[row] for row in known.nonzero()[:, 0].tolist()]
        else:
            right = probs.argmax(dim=1) == labels
        return Selective.of_answers(left, right, units, max_error, by_group=groups is not None)

    def abstention_notes(self, max_error: float) -> list[str]:
        """Why answers are left open where all are, label by label."""
        abstentions = self.abstentions(max_error)
        if not self.multilabel:
            return [each.note for each in abstentions if each.note]
        shut = [name for name, each in zip(self.class_names, abstentions) if each.note]
        if not shut:
            return []
        return [f"always left open, because of too few calibration rows or too many mistakes: {', '.join(shut)}"]

    @property
    def words(self) -> str:
        """ "temperature 2.31", and why."""
        count = len(self.logits)
        if self.multilabel or not _all_right(self.logits, self.labels):
            return self.scaling.words
        return f"{self.scaling.words}: all {count} are right, which allows a mean confidence of {count + 1}/{count + 2}"

    def facts(self) -> dict[str, Any]:
        """What run.json says of it."""
        facts: dict[str, Any] = {
            "rows": len(self.logits),
            "source": self.source,
            **({} if self.groups is None else {"groups": number_of(self.groups)}),
            "weighted": self.weights is not None or self.row_weights is not None,
            "temperature": self.scaling.temperature.tolist(),
        }
        if self.multilabel:
            facts |= {"offset": self.scaling.offset.tolist(), "thresholds": self.thresholds.tolist()}
        if self.unlike is not None and self.unlike.known:
            facts["unlike_beyond"] = self.unlike.limit
        return facts

    def errors(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """Calibration error before and after, on other images."""
        logits = logits.detach().double().cpu()
        return calibration_error(logits, labels), calibration_error(self.scaling.logits(logits), labels)

    # the file --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> Path:
        """Write the file into a run folder; returns its path."""
        tensors = {
            "logits": self.logits,
            "labels": self.labels,
            "temperature": self.scaling.temperature,
            "offset": self.scaling.offset,
        }
        for name in ("weights", "thresholds", "row_weights", "groups"):
            if getattr(self, name) is not None:
                tensors[name] = getattr(self, name)
        header: dict[str, Any] = {"format": FORMAT, "class_names": list(self.class_names), "source": self.source}
        if self.unlike is not None and self.unlike.known:
            tensors["support"] = self.unlike.support.half()
            header["limit"] = self.unlike.limit
        return write_tensors(Path(folder) / CALIBRATION, tensors, header)

    @classmethod
    def load(cls, folder: str | Path) -> Calibration | None:
        """That of a run folder; None where the run has none.

        Raises:
            DataError: damaged, or of another format.
        """
        path = Path(folder) / CALIBRATION
        if not path.is_file():
            return None
        header, tensors = read_tensors(path)
        fault = _fault(header, tensors)
        if fault:
            raise DataError(f"{path}: damaged, {fault}; copy the run again, or fit again")
        support = tensors.get("support")
        return cls(
            tensors["logits"],
            tensors["labels"],
            tensors.get("weights"),
            tuple(header["class_names"]),
            header["source"],
            Scaling(tensors["temperature"], tensors["offset"]),
            tensors.get("thresholds"),
            None if support is None else Unlike(support.float(), float(header["limit"])),
            tensors.get("row_weights"),
            tensors.get("groups"),
        )


def uncalibrated_words(info: RunInfo) -> str:
    """That a run has no calibration rows, and why.

    Args:
        info: of its run.json.
    """
    return f"{UNCALIBRATED} ({info.not_calibrated})" if info.not_calibrated else UNCALIBRATED


def _label_thresholds(probs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """(C,) the probability at which each label's F1 on the rows is best, the middle between two rows; one half where
    too few rows have or lack the label."""
    weights = torch.ones_like(probs) if weights is None else weights
    return torch.stack([_best_f1(*columns) for columns in zip(probs.T, labels.T, weights.T)])


def _best_f1(probs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    if min(int((labels == 1).sum()), int((labels == 0).sum())) < FEWEST_OF_EACH:
        return torch.tensor(HALF, dtype=torch.float64)
    known = ~labels.isnan()
    order = probs[known].argsort(descending=True)
    probs, truth, weights = probs[known][order], (labels[known] == 1)[order], weights[known][order]
    hits, called = (weights * truth).cumsum(0), weights.cumsum(0)
    f1 = 2 * hits / (called + hits[-1])
    last_of_tie = torch.cat([probs[1:] < probs[:-1], torch.ones(1, dtype=torch.bool)])
    best = int(f1.where(last_of_tie, -1.0).argmax())
    below = probs[best + 1] if best + 1 < len(probs) else probs[best]
    return (probs[best] + below) / 2


def _log_odds(probs: Tensor) -> Tensor:
    return torch.logit(probs.double(), eps=1e-12)


def _fault(header: Any, tensors: dict[str, Tensor]) -> str:
    """What is wrong with a file's content, or ""."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return f"not of format {FORMAT}"
    names, logits, labels = header.get("class_names"), tensors.get("logits"), tensors.get("labels")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "class_names is not a list of names"
    if not isinstance(header.get("source"), str):
        return "source is not a text"
    if logits is None or labels is None or logits.ndim != 2 or not len(logits) or logits.shape[1] != len(names):
        return "logits are not (n, C)"
    several = labels.ndim == 2
    if labels.shape != (logits.shape if several else logits.shape[:1]):
        return "labels do not match the logits"
    if not several and (labels.is_floating_point() or labels.min() < 0 or labels.max() >= len(names)):
        return "labels are not class indices"
    if several and not bool((labels.isnan() | (labels == 0) | (labels == 1)).all()):
        return "labels are not 0, 1 or NaN"
    shapes = {"temperature": (len(names) if several else 1,), "offset": (len(names) if several else 1,)}
    if several:
        shapes["thresholds"] = (len(names),)
    if "weights" in tensors:
        shapes["weights"] = tuple(labels.shape)
    for name in ("row_weights", "groups"):
        if name in tensors:
            shapes[name] = tuple(labels.shape[:1])
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            return f"{name} does not have the shape {shape}"
    for name, value in tensors.items():
        if name not in ("labels", "groups") and not (value.is_floating_point() and bool(value.isfinite().all())):
            return f"{name} holds values that are not finite numbers"
    if bool((tensors["temperature"] <= 0).any()):
        return "a temperature is not positive"
    if any(name in tensors and bool((tensors[name] < 0).any()) for name in ("weights", "row_weights")):
        return "a weight is negative"
    if "groups" in tensors and (tensors["groups"].dtype != torch.int64 or tensors["groups"].min() < 0):
        return "groups are not numbered"
    limit = header.get("limit")
    if "support" in tensors and (
        tensors["support"].ndim != 2
        or not len(tensors["support"])
        or not isinstance(limit, (int, float))
        or not math.isfinite(limit)
    ):
        return "what detects unlike images is incomplete"
    return ""


@dataclass(frozen=True)
class Scaling:
    """Logits become logits / temperature + offset.

    With one label per image the temperature is (1,) and the offset 0: the ranking of the classes, and so the answer,
    stays. With several labels both are (L,): the ranking of the images stays, label by label. A label has an offset
    because the logit 0 of a cache or of a pair of prompts does not mean a probability of one half.

    Attributes:
        temperature: (1,) or (L,) float64, within 1e-6 and 1e5.
        offset: the same shape.
    """

    temperature: Tensor
    offset: Tensor

    @classmethod
    def fit(cls, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Scaling:
        """The scaling with the least negative log-likelihood of labels that no fit has seen.

        Args:
            logits: (N, C).
            labels: (N,) class indices, or (N, C) 0/1 with NaN where unknown.
            weights: (N,), or (N, C) with several labels; by default all rows count alike.

        Raises:
            DataError: no rows, or logits that are not finite.
        """
        logits = logits.detach().double().cpu()
        if logits.ndim != 2 or not logits.numel() or not logits.isfinite().all():
            raise DataError(f"calibration needs finite logits (N, C) of one image at least, not {tuple(logits.shape)}")
        labels = labels.detach().cpu()
        weights = torch.ones(labels.shape, dtype=torch.float64) if weights is None else weights.detach().double().cpu()
        if labels.ndim == 2:
            return _per_label(logits, labels.double(), weights)
        return cls(_temperature(logits, labels.long(), weights)[None], torch.zeros(1, dtype=torch.float64))

    @classmethod
    def fit_if_better(cls, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Scaling:
        """As `fit`; none (temperature 1, offset 0) where scalings fitted to four of five parts of the rows have a lower
        likelihood on the fifth than logits as they are. Of rows that are all right, and of many, nothing is held out.
        """
        fitted = cls.fit(logits, labels, weights)
        single = labels.ndim == 1
        if (single and _all_right(logits, labels)) or len(logits) < HELD_OUT or logits.numel() > MOST_HELD_OUT:
            return fitted
        weights = torch.ones(labels.shape, dtype=torch.float64) if weights is None else weights.double().cpu()
        part = torch.arange(len(logits)) % HELD_OUT  # rows are in the order of classes: each part has its share
        scaled_loss = plain_loss = 0.0
        for held in range(HELD_OUT):
            rest, own = part != held, part == held
            scaled = cls.fit(logits[rest], labels[rest], weights[rest]).logits(logits[own])
            plain_loss += _negative_log_likelihood(logits[own].double(), labels[own], weights[own])
            scaled_loss += _negative_log_likelihood(scaled, labels[own], weights[own])
        if scaled_loss < plain_loss:
            return fitted
        return cls(torch.ones_like(fitted.temperature), torch.zeros_like(fitted.offset))

    def logits(self, logits: Tensor) -> Tensor:
        """(N, C) float64 scaled logits, on the CPU."""
        return logits.detach().double().cpu() / self.temperature + self.offset

    def probabilities(self, logits: Tensor, multilabel: bool) -> Tensor:
        """(N, C) float64: rows summing to 1, or one probability per label."""
        scaled = self.logits(logits)
        return scaled.sigmoid() if multilabel else scaled.softmax(dim=1)

    @property
    def words(self) -> str:
        """ "temperature 2.31", or the range over labels."""
        if bool((self.temperature == 1).all() and (self.offset == 0).all()):
            return "temperature 1, since others did worse on rows held out of their fit"
        low, high = (f"{float(f'{end:.3g}'):g}" for end in (self.temperature.min(), self.temperature.max()))
        return f"temperature {low}" if len(self.temperature) == 1 else f"temperatures {low} to {high}"


def _negative_log_likelihood(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """The weighted sum over rows, or over known labels where there are several."""
    if labels.ndim == 1:
        return float((weights * torch.nn.functional.cross_entropy(logits, labels.long(), reduction="none")).sum())
    known = ~labels.isnan()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.nan_to_num().double(), reduction="none")
    return float((weights * each)[known].sum())


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error: 15 equal bins, of the top class, or of all known labels where there are several.

    Args:
        logits: (N, C).
        labels: (N,), or (N, C) 0/1/NaN.
    """
    bins = [each for each in calibration_curve(logits, labels) if each.count]
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / sum(b.count for b in bins)


def _temperature(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """() float64. The likelihood is convex in 1 / temperature, so the zero of its slope is found by halving.

    Where all of N rows are right the likelihood has no maximum: any logits would do if they were larger. Then the mean
    confidence is (N + 1) / (N + 2), as if one of N + 2 such rows were wrong (Laplace).
    """
    count = len(logits)
    if _all_right(logits, labels):

        def excess(inverse: np.ndarray) -> float:
            sure = (logits * float(inverse)).softmax(dim=1).amax(dim=1)
            return float((weights * (sure - (count + 1) / (count + 2))).sum())

        slope = excess
    else:
        own = logits.gather(1, labels[:, None])[:, 0]  # (N,)

        def slope(inverse: np.ndarray) -> float:
            probs = (logits * float(inverse)).softmax(dim=1)
            return float((weights * ((probs * logits).sum(dim=1) - own)).sum())

    lowest, highest = (torch.tensor(1 / end).double().numpy() for end in (HIGHEST, LOWEST))
    return torch.tensor(1 / float(_positive_zero(slope, lowest, highest)), dtype=torch.float64)


def _all_right(logits: Tensor, labels: Tensor) -> bool:
    return logits.shape[1] > 1 and bool((logits.argmax(dim=1) == labels).all())


def _per_label(logits: Tensor, labels: Tensor, weights: Tensor) -> Scaling:
    """Slope and offset of each label by logistic regression, with Platt's targets; the slope is never negative."""
    from scipy.special import expit

    known = ~labels.isnan()
    positive, negative = (labels == 1).sum(dim=0), (labels == 0).sum(dim=0)  # (L,)
    enough = (positive >= FEWEST_OF_EACH) & (negative >= FEWEST_OF_EACH)
    targets = torch.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))  # (N, L)
    # In numpy, which takes a third of the time for some thousand passes over a few rows.
    rows, target, weight = (each.numpy() for each in (logits, targets, torch.where(known, weights, 0.0)))

    def offset_of(inverse: np.ndarray) -> np.ndarray:
        """(L,) the best offset at a slope."""
        scaled = inverse * rows
        reach = np.abs(scaled).max(axis=0) + 50
        return _zero(lambda offset: (weight * (expit(scaled + offset) - target)).sum(axis=0), -reach, reach)

    def slope(inverse: np.ndarray) -> np.ndarray:
        probs = expit(inverse * rows + offset_of(inverse))
        return (weight * (probs - target) * rows).sum(axis=0)

    lowest, highest = (np.full(logits.shape[1], 1 / end) for end in (FLATTEST, LOWEST))
    inverse = np.where(enough, _positive_zero(slope, lowest, highest), 1.0)
    return Scaling(torch.from_numpy(1 / inverse), torch.from_numpy(np.where(enough, offset_of(inverse), 0.0)))


def _zero(rising: Callable[[np.ndarray], Any], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where a rising function is 0, or the end nearest to it."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = rising(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


def _positive_zero(rising: Callable[[np.ndarray], Any], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The same of positive numbers, whose logarithms are halved."""
    return np.exp(_zero(lambda log: rising(np.exp(log)), np.log(low), np.log(high)))
