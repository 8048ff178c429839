"""What a run keeps to say how sure it is: scores of labelled images that chose nothing, and what was made of them.

One safetensors file in the run folder, tensors in the body and JSON in the header. No pickle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..runtime.files import read_tensors, write_tensors
from .conformal import Conformal
from .label_sets import LabelSets
from .scaling import FEWEST_OF_EACH, Scaling, calibration_error, fit_scaling
from .selective import Abstention, answer_threshold
from .unlike import MOST_KEPT, Unlike

CALIBRATION = "calibration.safetensors"
FORMAT = 1
TABLE_COVERAGES = (0.8, 0.9, 0.95)
"""Coverages that reports show, and exports keep thresholds for."""
UNCALIBRATED = "this run has no calibration rows"
HALF = 0.5
"""The threshold of a label that too few rows tell another of."""


@dataclass(frozen=True)
class Calibration:
    """Scores of calibration rows, and what follows of them.

    Attributes:
        logits: (n, C) of the method, fitted without these rows.
        labels: (n,) class indices, or (n, C) 0/1 with NaN where unknown.
        weights: (n,), or (n, C): of how many ordinary images a row stands, where classes are not as frequent among the
            rows as in the training images; None where they are.
        row_weights: (n,), with several labels: of how many images that have a label a row stands; None: one.
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
    ) -> Calibration:
        """All that can be made of calibration rows; see the attributes."""
        logits, labels = logits.detach().float().cpu(), labels.detach().cpu()
        scaling = fit_scaling(logits, labels, weights)
        several = labels.ndim == 2
        thresholds = _label_thresholds(scaling.probabilities(logits, True), labels, weights) if several else None
        return cls(logits, labels, weights, tuple(class_names), source, scaling, thresholds, unlike, row_weights)

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, C) float64 calibrated: rows summing to 1, or one probability per label."""
        return self.scaling.probabilities(logits, self.multilabel)

    @cached_property
    def _own(self) -> Tensor:
        return self.probabilities(self.logits)

    def answers(self, logits: Tensor) -> Tensor:
        """(N, C) bool: with several labels, which of them an image is said to have, each from its own threshold on."""
        return self.answers_of(self.probabilities(logits))

    def answers_of(self, probs: Tensor) -> Tensor:
        """The same of probabilities."""
        return probs >= self.thresholds

    def conformal(self, coverage: float, method: str | None = None) -> Conformal | LabelSets:
        """Sets of classes with a coverage; with several labels sets that hold such a share of the true ones.

        Args:
            method: of `SET_METHODS`, by default "lac"; None with several labels.

        Raises:
            ConfigError: no such coverage or method.
        """
        if not self.multilabel:
            return Conformal.of_rows(self._own, self.labels, coverage, method or "lac", self.weights)
        if method is not None:
            raise ConfigError(f"--set-method {method}: for images with one label each; omit it")
        return LabelSets.of_rows(self._own, self.labels, coverage, self.row_weights)

    def abstentions(self, max_error: float) -> list[Abstention]:
        """From which certainty on an answer is given: one for all answers, or one per label.

        Raises:
            ConfigError: no such error.
        """
        if not self.multilabel:
            confidence, answer = self._own.max(dim=1)
            return [answer_threshold(confidence, answer == self.labels, max_error, self.weights)]
        certain, found = self.certainty(self._own), []
        for c in range(len(self.class_names)):
            known = ~self.labels[:, c].isnan()
            right = (self._own[:, c] >= self.thresholds[c]) == (self.labels[:, c] == 1)
            weights = None if self.weights is None else self.weights[known, c]
            found.append(answer_threshold(certain[known, c], right[known], max_error, weights))
        return found

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

    def abstention_notes(self, max_error: float) -> list[str]:
        """Why answers are left open where all are, label by label."""
        found = self.abstentions(max_error)
        if not self.multilabel:
            return [found[0].note] if found[0].note else []
        shut = [name for name, each in zip(self.class_names, found) if each.note]
        if not shut:
            return []
        return [f"always left open, because of too few calibration rows or too many mistakes: {', '.join(shut)}"]

    def facts(self) -> dict[str, Any]:
        """What run.json says of it."""
        facts: dict[str, Any] = {
            "rows": len(self.logits),
            "source": self.source,
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
        for name in ("weights", "thresholds", "row_weights"):
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
        )


def uncalibrated_words(info: Mapping[str, Any]) -> str:
    """That a run has no calibration rows, and why.

    Args:
        info: of its run.json.
    """
    reason = info.get("not_calibrated")
    return f"{UNCALIBRATED} ({reason})" if reason else UNCALIBRATED


def kept_support(features: Any) -> Any:
    """The rows (a tensor or a list) of the support that are kept to tell unlike images: all, or evenly some of many."""
    return features[:: max(1, -(-len(features) // MOST_KEPT))]


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
    if "row_weights" in tensors:
        shapes["row_weights"] = tuple(labels.shape[:1])
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            return f"{name} does not have the shape {shape}"
    for name, value in tensors.items():
        if name != "labels" and not (value.is_floating_point() and bool(value.isfinite().all())):
            return f"{name} holds values that are not finite numbers"
    if bool((tensors["temperature"] <= 0).any()):
        return "a temperature is not positive"
    if any(name in tensors and bool((tensors[name] < 0).any()) for name in ("weights", "row_weights")):
        return "a weight is negative"
    limit = header.get("limit")
    if "support" in tensors and (
        tensors["support"].ndim != 2
        or not len(tensors["support"])
        or not isinstance(limit, (int, float))
        or not math.isfinite(limit)
    ):
        return "what detects unlike images is incomplete"
    return ""
