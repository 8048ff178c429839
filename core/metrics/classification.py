"""The scores of a classifier, one label per image or several; among them those that settings are chosen by.

Areas under curves, and calibration errors, have the result of torchmetrics' function of that name. Importing
torchmetrics brings torchvision, transformers and matplotlib and costs three times what torch does, and every fit is
scored. The tests compare each function with torchmetrics' to the bit.

Where classes of unequal size are to count alike, the weight of a class with n of the N images is N / (C n), with C the
classes that have images, as scikit-learn's `class_weight="balanced"` has it. Where all have equally many there are no
weights: what is published stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from .intervals import class_intervals

BINS = 15
ALIKE = 1e-9
"""Scores this close are alike."""


def metrics_of(logits: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> dict[str, float]:
    """Metric name -> value, all between 0 and 1; none without labels.

    Args:
        logits: (N, C).
        labels: (N,) int64, or (N, C) of 0, 1 and NaN (unknown).
        class_names: C names.
    """
    if labels is None:
        return {}
    logits, labels, names = logits.float().cpu(), labels.cpu(), list(class_names)
    several = labels.ndim == 2
    return multilabel_metrics(logits, labels, names) if several else classification_metrics(logits, labels, len(names))


def classification_metrics(logits: Tensor, labels: Tensor, num_classes: int) -> dict[str, float | None]:
    """Scores of a classifier with one label per image.

    The macro averages (balanced accuracy, macro-F1, AUROC) run over the classes that occur in `labels`: a class
    without a test image has no recall, and counting it as 0 would say the model failed where it was not asked.

    Args:
        logits: (N, C).
        labels: (N,) class indices.
        num_classes: C.

    Returns:
        accuracy; balanced_accuracy: mean recall of classes; macro_f1: mean F1 of classes; auroc: mean of one-vs-rest
        AUROC of the log odds, None where only one class occurs; ece: expected calibration error of the top class, 15
        equal bins. Floats in 0..1.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = _checked(logits, labels, num_classes)
    predicted = logits.detach().cpu().argmax(dim=1)  # (N,) of the logits: a softmax can tie what they tell apart
    of_class = (labels[predicted == labels], labels, predicted)
    right, images, answers = (rows.bincount(minlength=num_classes) for rows in of_class)  # (C,) each
    present = images > 0
    confidence, called = probs.float().max(dim=1)  # (N,) each
    return {
        "accuracy": float(right.sum() / images.sum()),
        "balanced_accuracy": float((right / images)[present].mean()),
        "macro_f1": float((2 * right / (images + answers))[present].mean()),
        "auroc": _one_vs_rest_auroc(logits.detach().double().cpu(), labels, present),
        "ece": binned_calibration_error(confidence, called == labels),
    }


def multilabel_metrics(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float | None]:
    """Scores of a classifier with several labels per image; unknown labels (NaN) are left out.

    What ranks images (AUROC, average precision) reads the logits: a sigmoid makes ties of large ones. A label of which
    the known values are all 0 or all 1 cannot be ranked: its AUROC is None, and auroc,
    mean_average_precision and macro_f1 leave it out.

    Args:
        logits: (N, C), one sigmoid per label.
        labels: (N, C) 0, 1 or NaN.
        class_names: C names of labels.

    Returns:
        auroc, mean_average_precision, macro_f1 (at a probability of 0.5): means over labels, None where no label has
        both values; accuracy: share of known labels right at 0.5; ece: expected calibration error over all known
        labels, 15 equal bins; "auroc/<label>": of each. Floats in 0..1.

    Raises:
        DataError: as `probabilities`, or no label is known.
    """
    probs, labels = _checked(logits, labels, len(class_names))
    labelled = ~labels.isnan()  # (N, C)
    if not labelled.any():
        raise DataError("the test set has no known label; mark labels as 0 or 1")
    scores, positive = logits.detach().double().cpu(), probs > 0.5  # (N, C) each
    aurocs: dict[str, float | None] = {f"auroc/{name}": None for name in class_names}
    precision, f1 = [], []
    for c, name in enumerate(class_names):
        rows, truth = labelled[:, c], labels[labelled[:, c], c].long()
        if truth.unique().numel() < 2:
            continue
        aurocs[f"auroc/{name}"] = auroc(scores[rows, c], truth)
        precision.append(average_precision(scores[rows, c], truth))
        f1.append(float(2 * (truth * positive[rows, c]).sum() / (truth.sum() + positive[rows, c].sum())))
    return {
        "auroc": _mean([value for value in aurocs.values() if value is not None]),
        "mean_average_precision": _mean(precision),
        "macro_f1": _mean(f1),
        "accuracy": float((positive == labels)[labelled].sum() / labelled.sum()),
        "ece": binned_calibration_error(probs[labelled], labels[labelled]),
        **aurocs,
    }


def label_answer_metrics(answers: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Macro F1 and accuracy of yes-no answers, over labels and images as in `multilabel_metrics`.

    Args:
        answers: (N, C) bool, whether an image is said to have a label.
        labels: (N, C) 0, 1 or NaN; unknown ones are left out.
    """
    labelled, truth = ~labels.isnan(), labels == 1
    hits, called = ((answers & each & labelled).sum(dim=0) for each in (truth, torch.ones_like(truth)))  # (C,) each
    positives, of_label = truth.sum(dim=0), labelled.sum(dim=0)
    both = (positives > 0) & (positives < of_label)
    f1 = (2 * hits / (positives + called))[both]
    return {
        "macro_f1": _mean(f1.tolist()),
        "accuracy": _share(int(((answers == truth) & labelled).sum()), int(labelled.sum())),
    }


def confusion_matrix(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64: how many images of class row were called class column."""
    _, labels = _checked(logits, labels, num_classes)
    predicted = logits.detach().cpu().argmax(dim=1)
    return (labels * num_classes + predicted).bincount(minlength=num_classes**2).reshape(num_classes, num_classes)


def check_scores(names: Sequence[str], scores: Tensor) -> None:
    """Raise the DataError of images whose scores hold NaN or infinity.

    Args:
        names: of the images.
        scores: (N, ...) of each.
    """
    wrong = ~scores.isfinite().flatten(1).all(dim=1)
    if wrong.any():
        raise DataError.not_finite([names[row] for row in wrong.nonzero().flatten().tolist()])


def _checked(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    if logits.ndim == 2 and logits.shape[1] != num_classes:
        raise DataError(f"scores have {logits.shape[1]} classes, {num_classes} are named")
    return probabilities(logits, labels)


def log_odds(logits: Tensor) -> Tensor:
    """(N, C) log p / (1 - p) of the softmax p of each class: its order, without its ties near 0 and 1."""
    whole, best = logits.logsumexp(dim=1, keepdim=True), logits.argmax(dim=1, keepdim=True)
    others = whole + torch.log1p(-(logits - whole).exp().clamp(max=0.75))  # exact but for the best class
    without_best = logits.scatter(1, best, -torch.inf).logsumexp(dim=1, keepdim=True)
    return logits - others.scatter(1, best, without_best)


def _one_vs_rest_auroc(logits: Tensor, labels: Tensor, present: Tensor) -> float | None:
    classes = present.nonzero().flatten().tolist()  # P
    if len(classes) < 2:
        return None
    odds = log_odds(logits)
    return float(torch.tensor([auroc(odds[:, c], labels == c) for c in classes]).mean())


def bin_of(confidence: Tensor) -> Tensor:
    """The bin of each confidence among `BINS` equal ones, int64 of the same shape."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float32, device=confidence.device)
    return (torch.bucketize(confidence.float(), edges, right=True) - 1).clamp(max=BINS - 1)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of logits, and the labels that belong to them, both on the CPU.

    In float64: logits of a CLIP (cosines times 100) saturate a float32 softmax, which makes ties out of differences.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) 0/1 with NaN where unknown.

    Returns:
        (N, C) float64: softmax over classes, or a sigmoid each where labels are (N, C); and the labels, int64 (N,) or
        float64 (N, C).

    Raises:
        DataError: no rows, sizes that disagree, labels out of range, or logits that are not finite.
    """
    logits, labels = logits.detach().double().cpu(), labels.detach().cpu()
    if logits.ndim != 2 or len(logits) == 0:
        raise DataError(f"scores have shape {tuple(logits.shape)}; (N, C) with at least one test image is needed")
    if not logits.isfinite().all():  # rows without names; others are told by `check_scores`
        raise DataError("scores hold NaN or infinity: the fit diverged; try a smaller learning rate or full precision")
    several = labels.ndim == 2
    expected = logits.shape if several else logits.shape[:1]
    if labels.shape != expected:
        raise DataError(f"labels have shape {tuple(labels.shape)} for scores of shape {tuple(logits.shape)}")
    if several:
        return logits.sigmoid(), labels.double()
    labels = labels.long()
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(f"labels reach from {labels.min()} to {labels.max()} for {logits.shape[1]} classes")
    return logits.softmax(dim=1), labels


@dataclass(frozen=True)
class ClassRow:
    """Scores of one class; None where the test set cannot tell.

    Attributes:
        name: of the class.
        images: test images of it.
        zero_shot_recall: share of them that zero-shot finds.
        recall: share of them that the adapted model finds.
        precision: share of the adapted model's answers with this name that are right; None if it never answers so.
        f1: harmonic mean of the two.
        recall_interval, precision_interval: [low, high] of 95 %, each for this class alone.
    """

    name: str
    images: int
    zero_shot_recall: float | None
    recall: float | None
    precision: float | None
    f1: float | None
    recall_interval: list[float] | None = None
    precision_interval: list[float] | None = None


def per_class_table(
    labels: Tensor,
    zero_shot_logits: Tensor | None,
    adapted_logits: Tensor,
    class_names: Sequence[str],
    groups: Sequence[str] | None = None,
) -> list[ClassRow]:
    """One row per class, in the order of `class_names`.

    Args:
        labels: (N,) class indices.
        zero_shot_logits: (N, C), or None.
        adapted_logits: (N, C).
        class_names: C names.
        groups: N keys of images that belong together, or None.

    Raises:
        DataError: sizes disagree.
    """
    after = confusion_matrix(adapted_logits, labels, len(class_names))  # (C, C)
    before = None if zero_shot_logits is None else confusion_matrix(zero_shot_logits, labels, len(class_names))
    answers, labels = adapted_logits.detach().cpu().argmax(dim=1), labels.cpu().long()
    right, classes = answers == labels, len(class_names)
    recalls, precisions = (class_intervals(right, of, classes, groups) for of in (labels, answers))
    rows = []
    for c, name in enumerate(class_names):
        hits, images, called = int(after[c, c]), int(after[c].sum()), int(after[:, c].sum())
        rows.append(
            ClassRow(
                name=name,
                images=images,
                zero_shot_recall=None if before is None else _share(int(before[c, c]), images),
                recall=_share(hits, images),
                precision=_share(hits, called),
                f1=_share(2 * hits, images + called) if images else None,
                recall_interval=recalls[c],
                precision_interval=precisions[c],
            )
        )
    return rows


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True)
class Mistake:
    """An image called by a wrong class: its row, the true and the predicted class index, the confidence in 0..1."""

    index: int
    true: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class LabelMistake:
    """A label got wrong: image row, label column, whether the label holds, and the confidence in the wrong answer."""

    index: int
    label: int
    present: bool
    confidence: float


def top_mistakes(logits: Tensor, labels: Tensor, k: int) -> list[Mistake]:
    """The `k` most confident wrong answers, the surest first.

    Args:
        logits: (N, C).
        labels: (N,) class indices.
        k: at most how many.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    predicted = logits.detach().cpu().argmax(dim=1)  # (N,)
    confidence = probs.gather(1, predicted[:, None]).squeeze(1)  # (N,)
    wrong = (predicted != labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:k]
    return [Mistake(i, int(labels[i]), int(predicted[i]), float(confidence[i])) for i in order.tolist()]


def top_label_mistakes(logits: Tensor, labels: Tensor, k: int, answers: Tensor | None = None) -> list[LabelMistake]:
    """The `k` most confident wrong labels where images have several, the surest first.

    Args:
        logits: (N, C).
        labels: (N, C) 0, 1 or NaN; unknown ones are never a mistake.
        k: at most how many.
        answers: (N, C) bool, whether an image is said to have a label; by default from a probability of 0.5 on.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    predicted = probs > 0.5 if answers is None else answers
    wrong = (~labels.isnan()) & (predicted != (labels == 1))  # (N, C)
    rows, columns = wrong.nonzero(as_tuple=True)
    confidence = probs.where(predicted, 1 - probs)[rows, columns]  # (M,)
    order = confidence.argsort(descending=True, stable=True)[:k].tolist()
    return [
        LabelMistake(int(rows[i]), int(columns[i]), bool(labels[rows[i], columns[i]] == 1), float(confidence[i]))
        for i in order
    ]


def auroc(scores: Tensor, truth: Tensor) -> float:
    """The area under the ROC curve, by trapezia.

    Args:
        scores: (N,) of any scale; only their order and their ties count.
        truth: (N,) bool or 0/1, of both kinds.
    """
    hits, alarms = _counts_at_thresholds(scores, truth)  # (T,) each
    return float(torch.trapezoid(F.pad(hits / hits[-1], (1, 0)), F.pad(alarms / alarms[-1], (1, 0))))


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """The area under the curve of precision and recall, by steps; arguments as for `auroc`."""
    hits, alarms = _counts_at_thresholds(scores, truth)  # (T,) each
    precision, recall = hits / (hits + alarms), hits / hits[-1]
    steps = F.pad(recall.flip(0), (0, 1)).diff()  # from all images to none
    return float(-(steps * precision.flip(0)).sum())


@dataclass(frozen=True, eq=False)
class RankingCurve:
    """What cuts do, from the strictest on, (T,) each: the ROC curve, and the curve of precision over recall.

    Attributes:
        sensitivity: the share of the true rows that are called positive, also called recall.
        false_positive_rate: that of the others.
        precision: the share of those called positive that are true.
    """

    sensitivity: Tensor
    false_positive_rate: Tensor
    precision: Tensor


def ranking_curve(scores: Tensor, truth: Tensor, most: int = 100) -> RankingCurve:
    """Both curves, at so many cuts at most, which lie evenly along the ROC curve; arguments as for `auroc`."""
    hits, alarms = _counts_at_thresholds(scores, truth)  # (T,) each
    sensitivity, false_positive_rate = hits / hits[-1], alarms / alarms[-1]
    way = (sensitivity + false_positive_rate).contiguous()  # from the left lower corner, along both axes, to 2
    places = torch.searchsorted(way, torch.linspace(0, 2, most, dtype=way.dtype)).clamp(max=len(way) - 1).unique()
    return RankingCurve(sensitivity[places], false_positive_rate[places], (hits / (hits + alarms))[places])


def binned_calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The expected calibration error over `BINS` equal bins (Guo et al., 2017, arXiv 1706.04599).

    Args:
        confidence: (N,) in 0..1.
        right: (N,) bool or 0/1, whether what has that confidence holds.
    """
    # torchmetrics gives a confidence of exactly 1 a bin of its own; just below 1 it falls in the last one.
    confidence = confidence.float().clamp(max=1 - torch.finfo(torch.float32).eps)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float32)
    bins = torch.bucketize(confidence, edges, right=True) - 1  # (N,)

    def per_bin(values: Tensor) -> Tensor:
        return torch.zeros(BINS + 1).scatter_add_(0, bins, values)

    count = per_bin(torch.ones_like(confidence))
    gaps = (per_bin(right.float()) / count).nan_to_num() - (per_bin(confidence) / count).nan_to_num()
    return float((gaps.abs() * (count / count.sum())).sum())


def _counts_at_thresholds(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """How many true and how many false rows score at least each distinct score, the highest first; (T,) int64 each."""
    order = scores.argsort(descending=True)
    scores, truth = scores[order], truth[order].long()
    last = F.pad((scores[1:] != scores[:-1]).nonzero().flatten(), (0, 1), value=len(scores) - 1)  # of each tie
    hits = truth.cumsum(0)[last]
    return hits, 1 + last - hits


def val_score(logits: Tensor, labels: Tensor, balanced: bool = False) -> float:
    """Accuracy of (V, C) logits, or macro AUROC where labels are (V, C).

    Args:
        balanced: take the balanced accuracy, the same where classes have equally many images.
    """
    if labels.ndim == 1:
        right = (logits.argmax(dim=-1) == labels).double()
        weights = row_weights(labels) if balanced else None
        return float((right if weights is None else right * weights).mean())
    return float(macro_auroc(logits.T[None], labels.T)[0])


def best_setting(scores: np.ndarray, ties: str = "published") -> tuple[int, ...]:
    """The place of the best score in a grid of any number of axes.

    Args:
        scores: one number per point of the grid.
        ties: of points that score alike "published" takes the first, "plateau" the one that is farthest from all
            worse points and from the ends of the grid, each axis having the length 1.
    """
    best = scores >= scores.max() - ALIKE
    if ties == "published" or best.sum() < 2:
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(scores)), scores.shape))
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(best, 1), sampling=[1 / size for size in scores.shape])
    depth = depth[tuple(slice(1, -1) for _ in scores.shape)]
    deepest = np.where(depth >= depth.max() - ALIKE, 1.0, 0.0)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(deepest)), scores.shape))


def macro_auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over labels of the area under the ROC curve, ties counted half.

    Args:
        scores: (A, C, V).
        labels: (C, V) of 0 and 1, NaN for unknown; labels without both are left out.

    Returns:
        (A,) float64.
    """
    scored = (labels == 1).any(dim=1) & (labels == 0).any(dim=1)
    labels, scores = labels[scored], scores[:, scored]
    scores = torch.where(torch.isnan(labels), torch.inf, scores)  # above all known ones: changes no rank of theirs
    ordered = scores.sort(dim=-1).values
    below = torch.searchsorted(ordered, scores)
    upto = torch.searchsorted(ordered, scores, right=True)
    rank = (below + upto + 1).double() / 2
    positive, negative = (labels == 1), (labels == 0)
    p, n = positive.sum(dim=1).double(), negative.sum(dim=1).double()
    wins = (rank * positive).sum(dim=-1) - p * (p + 1) / 2  # (A, C)
    return (wins / (p * n)).mean(dim=-1)


def class_weights(labels: Tensor, num_classes: int) -> Tensor | None:
    """(C,) weights, 0 for a class without images; None where all classes with images have equally many.

    Args:
        labels: (N,) class indices.
        num_classes: C.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    present = counts > 0
    if len(counts[present].unique()) < 2:
        return None
    weights = len(labels) / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 0.0)


def row_weights(labels: Tensor) -> Tensor | None:
    """(N,) float64 weights of the images, of mean 1: the weighted share of right ones is the balanced accuracy.

    Args:
        labels: (N,) class indices, or (N, C) of several labels, which have none.
    """
    if labels.ndim != 1 or not len(labels):
        return None
    weights = class_weights(labels, int(labels.max()) + 1)
    return None if weights is None else weights.double()[labels]
