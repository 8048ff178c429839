"""How sure a fitted model may be: the calibration of its confidences, and how far its answers can be trusted.

Confidences are calibrated on labelled images that chose nothing: parts of the support, each scored by a fit on the
others, or validation images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..confidence.calibration import TABLE_COVERAGES, Calibration
from ..confidence.conformal import held_by_class, least_held, raked
from ..confidence.selective import Unlike, kept_support
from ..contracts.adapter import Adapter
from ..contracts.domain import Item
from ..contracts.features import FeatureSet
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place, Scores
from ..contracts.prepared import PreparedData, Shots, on_adapted
from ..contracts.resources import OF_TOWERS
from ..contracts.run_info import Record, beside
from ..errors import VladaptError
from ..features.batches import OF_IMAGES, logits_of
from ..metrics.classification import label_answer_metrics
from ..metrics.intervals import units_of
from ..metrics.score_intervals import calibration_interval, label_answer_intervals
from ..metrics.significance import CalibrationBin, calibration_curve
from ..registry import build_adapter
from ..runs.sections import AT_HALF, CalibrationSection, Cell, Measure, TableSection, plural
from ..runtime.progress import with_progress

SHARE = Measure("")
TABLE_ERRORS = (0.05, 0.1)
THRESHOLDS = (
    "macro F1 and accuracy of the adapted model use the threshold of each label that is best on the calibration rows, "
    "as predict does; zero-shot and the linear probe have none, so compare them at 0.5"
)
HALF = "macro F1 and accuracy use a threshold of 0.5 on the raw probability of each label"
OTHER_CLASSES = "confidences are not calibrated, because these are not the classes of the run"
FOLDS = 5
MOST_ROWS = 1000
MOST_ROWS_OF_IMAGES = 100
"""Validation images that are scored, at most: of any method, and of one that looks at the images themselves."""
MOST_NUMBERS = 1_000_000
"""Logits that a run keeps."""
ENOUGH = 8
"""Validation images that tell the scale of logits."""
WHERE = {True: "no fit on a part of the support", False: "no scores of validation images"}
UNEQUAL = 1.5
"""Rows have weights where the frequencies of two classes are off by this factor, not less: counts are never exact."""


@dataclass(frozen=True, eq=False)
class Calibrated(Record):
    """How confidences are made.

    Attributes:
        thresholds: label -> the probability from which on an image has it, where it may have several; else none.
        calibration: what confidences are made with, or None.
        why_not: why there is no calibration, or why it is not the usual one; "" where there is nothing to say.
        scores: that were calibrated.
        notes: sentences for the user.
    """

    beside_scores: ClassVar = ("thresholds",)
    thresholds: Mapping[str, float] | None = None
    calibration: Calibration | None = beside()
    why_not: str = beside("")
    scores: Scores | None = beside()
    notes: Sequence[str] = beside(())  # type: ignore[assignment]  # a field in place of a property

    def values_by_key(self) -> dict[str, Any]:
        return {} if self.thresholds is None else {"thresholds": self.thresholds}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Calibrated:
        return cls(metrics["thresholds"])

    def facts(self) -> dict[str, Any]:
        calibration = self.calibration
        return {"not_calibrated": self.why_not} if calibration is None else {"calibration": calibration.facts()}

    def save(self, folder: Path) -> None:
        if self.calibration is not None:
            self.calibration.save(folder)

    def section(self) -> list[Any]:
        """How confidence and accuracy agree, and what follows for sets and for answers left open."""
        if self.scores is None or self.scores.labels is None:
            return []
        return [self._curves(self.scores), trust_section(self.calibration, self.scores)]

    def _curves(self, scores: Scores) -> CalibrationSection:
        before, confident = scores.zero_shot_logits, scores.adapted_logits
        confident = confident if self.calibration is None else self.calibration.scaling.logits(confident)
        after = calibration_curve(confident, scores.labels)
        old, ece = (scores.zero_shot or {}).get("ece"), scores.adapted.get("ece")
        zero_shot = None if before is None else ("zero-shot", old, calibration_curve(before, scores.labels))
        words = _calibration_words(after) + self._how_made(scores.adapted.get("ece_uncalibrated"))
        several, title = scores.labels.ndim == 2, "Can its confidence be trusted?"
        return CalibrationSection(title, zero_shot, ("adapted", ece, after), words, several)

    def _how_made(self, raw: float | None) -> str:
        """How confidences were made, to follow a sentence.

        Args:
            raw: the calibration error without it.
        """
        if self.calibration is None or raw is None:
            return " Its confidences are not calibrated." if self.calibration is None else ""
        return (
            f" Its confidences are calibrated ({self.calibration.words}) on {self.calibration.source}; without "
            f"that, the calibration error would be {raw:.3f}."
        )


@dataclass(eq=False, kw_only=True)
class Calibrate(Judgement):
    """Confidences calibrated on labelled images that chose nothing; of a run that is scored again, as it keeps them."""

    record: ClassVar = Calibrated
    place: ClassVar = Place.TRUST
    refits: ClassVar = True

    def compute(self, fit: JudgedClassifier) -> Calibrated:
        """Sets `fit.calibration`, and puts the calibrated scores in the place of the raw ones."""
        if fit.at != EVAL:
            fit.calibration, fit.not_calibrated = calibration_of(fit)
        elif fit.own_classes:
            fit.calibration = Calibration.load(fit.use.run.path)
        thresholds, calibration = None, fit.calibration
        if calibration is not None and fit.labelled:
            on_calibrated(calibration, fit.scores)
            if calibration.multilabel:
                thresholds = dict(zip(calibration.class_names, calibration.thresholds.tolist()))
        return Calibrated(thresholds, calibration, fit.not_calibrated, fit.scores, _sentences(fit))


def _sentences(fit: JudgedClassifier) -> list[str]:
    """How confidences are made, and answers of several labels."""
    if not fit.own_classes:
        return [OTHER_CLASSES]
    if fit.at == EVAL or not fit.labelled:
        return []
    several, calibration, reached = fit.labels.ndim == 2, fit.calibration, fit.scores.adapted
    if calibration is None:
        return [f"confidences are not calibrated: {fit.not_calibrated}", *([HALF] if several else [])]
    instead = f" ({fit.not_calibrated})" if fit.not_calibrated else ""
    before, after = (f"{reached[key]:.1%}" for key in ("ece_uncalibrated", "ece"))
    worse = ", no better on these test images" * (reached["ece"] > reached["ece_uncalibrated"])
    calibrated = (
        f"confidences are calibrated ({calibration.words}) on {calibration.source}{instead}; the calibration error "
        f"{f'goes from {before} to {after}{worse}' if before != after else f'is {after} before and after'}"
    )
    return [each for each in (calibrated, _counted(calibration), THRESHOLDS * several) if each]


def on_calibrated(calibration: Calibration, scores: Scores) -> None:
    """Put the calibration error of calibrated confidences in the place of the raw one, which stays beside it as
    "ece_uncalibrated"; with several labels also macro F1 and accuracy from the run's own thresholds on in the place of
    those from 0.5 on, which stay as "..._at_half". Zero-shot and the linear probe have neither calibration nor
    thresholds.
    """
    metrics, logits, labels, groups = scores.metrics, scores.adapted_logits, scores.labels, scores.groups
    before, after = calibration.errors(logits, labels)
    intervals = calibration_interval(calibration.scaling.logits(logits), labels, after, groups)
    values, raw = {"ece": after}, {"ece": "ece_uncalibrated"}
    if calibration.multilabel:
        answers = calibration.answers(logits)
        values |= label_answer_metrics(answers, labels)
        intervals |= label_answer_intervals(answers, labels, values, groups)
        raw |= {key: f"{key}{AT_HALF}" for key in ("macro_f1", "accuracy")}
    between = metrics.get("metric_intervals") or {}
    baselines = (metrics.get("baselines") or {}).values()
    for side in (scores.zero_shot, scores.adapted, *baselines, *between.values()):
        _keep_raw(side, raw)
    scores.adapted.update(values, ece_uncalibrated=before)
    if between:
        between["adapted"] |= intervals


def _keep_raw(side: dict[str, Any] | None, raw: Mapping[str, str]) -> None:
    """Values, or intervals, under a second name, so that like is compared with like."""
    if side is not None:
        side |= {name: side[key] for key, name in raw.items() if key in side}


def _calibration_words(curve: list[CalibrationBin]) -> str:
    """Over- or under-confident, told from the mean gap."""
    filled = [b for b in curve if b.count]
    gap = sum(b.count * (b.confidence - b.accuracy) for b in filled) / sum(b.count for b in filled)
    if abs(gap) < 0.02:
        return "On the whole, the adapted model is as confident as it is accurate."
    how = (
        "more confident than it is accurate (overconfident)"
        if gap > 0
        else "less confident than it is accurate (underconfident)"
    )
    return f"On the whole, the adapted model is {how}, by {100 * abs(gap):.0f} points."


def trust_section(calibration: Calibration | None, scores: Scores) -> TableSection | None:
    """The table of the report: coverage and size of sets, and what is left open for a bounded error."""
    if calibration is None:
        return None
    labels, groups = scores.labels, scores.groups
    probs = calibration.probabilities(scores.adapted_logits)
    rows = [_coverage_row(calibration, probs, labels, coverage, groups) for coverage in TABLE_COVERAGES]
    for max_error in TABLE_ERRORS:
        left = calibration.selective(probs, labels, max_error, groups)
        wrong = "–" if left.error is None else f"{left.error:.1%} of the answers are wrong"
        asked = f"Answers of which at most {max_error:.0%} are wrong"
        rows.append((asked, Cell(wrong, SHARE.between(left.interval)), f"{left.open:.1%} left open", "–"))
    note = (
        f"Made from {calibration.source}; no choice was based on them. “vladapt predict --coverage 0.9” names the "
        "sets, “--max-error 0.05” leaves answers open. The promise holds for images drawn like these."
    )
    if counted := _counted(calibration):
        note += f" {counted[0].upper()}{counted[1:]}."
    headings = ("Asked for", "On the test images", "", "Class held least often")
    return TableSection("How far the answers can be trusted", headings, rows, note)


def _coverage_row(calibration: Calibration, probs: Tensor, labels: Tensor, coverage: float, groups) -> tuple:
    sets, several = calibration.conformal(coverage), calibration.multilabel
    scores, noun = sets.scores(probs, labels, groups), "labels" if several else "classes"
    share = "–" if scores["coverage"] is None else f"{scores['coverage']:.1%}"
    held = f"{coverage:.0%} of the true labels" if several else f"the right class in {coverage:.0%} of cases"
    size = f"all {noun}" if sets.of_all_classes else f"{scores['mean_set_size']:.2f} {noun}"
    least, cell = least_held(held_by_class(sets.sets(probs), labels, calibration.class_names, groups)), None
    if least is not None:
        name, of = least
        cell = Cell(f"{name}: {of['coverage']:.1%} of {plural(of['images'], 'image')}", SHARE.between(of["interval"]))
    return f"Sets that hold {held}", Cell(share, SHARE.between(scores["interval"])), size, cell


def _counted(calibration: Calibration) -> str:
    """How many groups the rows are of, and what these can promise; "" where each row stands alone."""
    return "" if calibration.groups is None else calibration.conformal(TABLE_COVERAGES[1]).note


def calibration_of(fit: JudgedClassifier) -> tuple[Calibration | None, str]:
    """What is known of how sure a fitted adapter may be; it stays as it is, bit for bit.

    Methods on features are fitted afresh on all but one part of the support, search included, and score that part.
    Others (trained towers, prompts), and those whose support has too few images per class, score the validation images
    that were not drawn for the search.

    Returns:
        None where there are no rows, or none that can be scored; and why, or why a method on features was not fitted
        on parts of its support ("" where it was, or never is).
    """
    prepared, reasons = fit.prepared, []
    counts = replace(prepared.counts)
    with torch.random.fork_rng(devices=[]):
        for rows in (_cross_fitted, _left_of_val):
            try:
                made = rows(fit)
            except VladaptError as error:  # fewer images than the method needs, say: the fit itself is good
                reasons.append(f"{WHERE[rows is _cross_fitted]}: {' '.join(str(error).split()).rstrip('.')}")
                continue
            if isinstance(made, Calibration):
                if rows is _cross_fitted:
                    prepared.counts = counts  # it looked again at what the fit had read
                return made, "; ".join(reasons)
            reasons.append(made)
    return None, "; ".join(filter(None, reasons))


def _cross_fitted(fit: JudgedClassifier) -> Calibration | str:
    """Each part of the support, scored by a fit on the others; why not, "" for methods that are expensive to fit.

    What is chosen in a fold (the weight of a cache, a penalty) and how many images it sums over change the scale of the
    logits; each fold's are brought to the scale that those of the fit itself have, on images that neither learned from.
    """
    prepared, adapter, shots, support = fit.prepared, fit.adapter, fit.shots, fit.shots.support
    if expensive(adapter, prepared) or support.labels is None or not len(support):
        return ""
    logits, rows, parts = [], [], support.folds(FOLDS, fit.seed)
    if not parts:
        return "too few images per class to score some of them by a fit on the others"
    common = _unlearned(prepared, shots, adapter, fit.seed, fit.refitted)
    if common is None:
        return (
            "no images besides those of the fit and of the test, which would be needed to scale fits on parts of the "
            "support"
        )
    wanted = logits_on(prepared, adapter, common)[0]
    with prepared.reporter.watching("Calibrating"):
        for held in with_progress(parts, "folds"):
            fresh = build_adapter(adapter.name, **adapter.repeated())
            out_of = torch.ones(len(support), dtype=torch.bool)
            out_of[held] = False
            own = support.select(held.to(support.features.device))
            fit.fit_again(fresh, prepared, _without(shots, out_of, own, adapter.transductive), quiet=True)
            theirs, of_common = logits_on(prepared, fresh, own)[0], logits_on(prepared, fresh, common)[0]
            logits.append(_on_scale(theirs, of_common, wanted, own.multilabel).cpu())
            rows.append(held)
    order = torch.cat(rows)
    chosen = support.select(order.to(support.features.device))
    source = f"{len(order)} support images, each scored by a fit on the others ({len(parts)} folds)"
    some = chosen.select(kept_support(list(range(len(chosen)))))
    unlike = Unlike.of_rows(kept_support(support.features), some.features, _same(some, support))
    return _made(prepared, torch.cat(logits), chosen, source, unlike)


def expensive(adapter: Adapter, prepared: PreparedData) -> bool:
    """Whether a method is not fitted again on parts of its support."""
    return bool((adapter.needs | adapter.at_predict) & OF_TOWERS) or prepared.base is not None


def _left_of_val(fit: JudgedClassifier) -> Calibration | str:
    """Validation images that were not drawn for the search, or all where there was none, scored by the fit; or why
    not."""
    prepared, adapter, shots = fit.prepared, fit.adapter, fit.shots
    searched = set() if shots.val is None else set(shots.val.ids or ())
    pool = [item for item in prepared.data.split("val") if item.class_label() is not None]
    left = [item for item in pool if item.id not in searched]
    if adapter.needs & OF_TOWERS and not left and fit.report.val_score is None and not fit.refitted:
        left = pool
    most = MOST_ROWS_OF_IMAGES if adapter.at_predict & OF_IMAGES else MOST_ROWS
    ids = [item.id for item in sorted(left, key=lambda item: item.rank(fit.seed))[:most]]
    if not ids:
        return "no validation images to spare"
    rows = prepared.of_ids(ids, parts="parts" in adapter.at_predict)
    logits, seen = logits_on(prepared, adapter, rows)
    source = f"{len(rows)} validation images that no choice was based on"
    return _made(prepared, logits.cpu(), rows, source, _unlike(prepared, adapter, shots.support, seen))


def logits_on(prepared: PreparedData, adapter: Adapter, rows: FeatureSet) -> tuple[Tensor, FeatureSet]:
    """(n, C) logits, and the features that they are of: those of the towers that the adapter changed."""
    moved = on_adapted(prepared, adapter)
    seen = rows if moved is prepared else moved.of_ids(rows.ids, parts="parts" in adapter.at_predict)
    return logits_of(adapter, moved.batches(adapter, seen), len(seen)), seen


def _unlearned(
    prepared: PreparedData, shots: Shots, adapter: Adapter, seed: int, val_taught: bool
) -> FeatureSet | None:
    """Images that no fit learns from, without their labels: those of val; where these are few, or taught the fit, what
    was drawn neither for the support nor for val. Never the test images, but for methods that read them all anyway.

    Returns:
        None where there are none.
    """
    if adapter.transductive:
        some = shots.test
    elif shots.val is not None and len(shots.val) >= ENOUGH and not val_taught:
        some = shots.val
    else:
        drawn = {*(shots.support.ids or ()), *((shots.val.ids if shots.val is not None else None) or ())}
        left = [item for split in ("train", "val") for item in prepared.data.split(split) if item.id not in drawn]
        ids = [item.id for item in sorted(left, key=lambda item: item.rank(seed))[:MOST_ROWS_OF_IMAGES]]
        some = prepared.of_ids(ids, parts="parts" in adapter.at_predict) if ids else None
        if (some is None or not len(some)) and not val_taught:
            some = shots.val
    if some is None or not len(some):
        return None
    return some.select(list(range(min(len(some), MOST_ROWS)))).without_labels()


def _on_scale(logits: Tensor, of_common: Tensor, wanted: Tensor, multilabel: bool) -> Tensor:
    """Logits (n, C) of a fold, scaled as those of the same images are from the fold to the fit: one factor for the
    spread over classes, or a factor and a shift per label for the spread over images."""
    if not multilabel:
        spread, own = (x - x.mean(dim=1, keepdim=True) for x in (wanted, of_common))
        return logits * (spread.norm() / own.norm().clamp(min=1e-12))
    factor = wanted.std(dim=0) / of_common.std(dim=0).clamp(min=1e-12)
    return (logits - of_common.mean(dim=0)) * factor + wanted.mean(dim=0)


def _without(shots: Shots, out_of: Tensor, held: FeatureSet, transductive: bool) -> Shots:
    """The draw with a part of its support held out; a method that reads all test images reads that part too."""
    support = shots.support.select(out_of.to(shots.support.features.device))
    items = tuple(item for item, stays in zip(shots.items, out_of.tolist()) if stays)
    test = _joined(shots.test, held) if transductive else shots.test
    return replace(shots, support=support, items=items, test=test)


def _joined(first: FeatureSet, second: FeatureSet) -> FeatureSet:
    ids = None if first.ids is None or second.ids is None else (*first.ids, *second.ids)
    features = torch.cat([first.features, second.features.to(first.features.device)])
    return FeatureSet(features, None, first.class_names, ids=ids, backbone=first.backbone, raw_norms=first.raw_norms)


def _same(rows: FeatureSet, support: FeatureSet) -> Tensor:
    """(n, M) bool: support rows that are kept and are the row itself, or of its group."""
    keys = kept_support(_keys(support))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    theirs = torch.tensor([number[key] for key in keys])
    return torch.tensor([number.get(key, -1) for key in _keys(rows)])[:, None] == theirs


def _keys(features: FeatureSet) -> list[tuple[str, str]]:
    """What is the same for the same image, or for images of one group."""
    ids = features.ids or tuple(map(str, range(len(features))))
    groups = features.groups or ("",) * len(ids)
    return [("group", group) if group else ("image", i) for i, group in zip(ids, groups)]


def _unlike(prepared: PreparedData, adapter: Adapter, support: FeatureSet, rows: FeatureSet) -> Unlike | None:
    """Distances to the support on the towers that the adapter changed."""
    if not len(support):
        return None
    moved = on_adapted(prepared, adapter)
    features = support.features if moved is prepared else moved.of_ids(support.ids).features
    return Unlike.of_rows(kept_support(features), rows.features)


def _made(prepared: PreparedData, logits: Tensor, rows: FeatureSet, source: str, unlike: Unlike | None) -> Calibration:
    stride = max(1, -(-logits.numel() // MOST_NUMBERS))  # rows are in the order of classes: each keeps its share
    logits, labels = logits[::stride], rows.labels.cpu()[::stride]
    unit, units = units_of(None if rows.groups is None else rows.groups[::stride], len(labels))
    train = prepared.data.split("train")
    weights = _weights(labels, train, logits.shape[1])
    row_weights = _row_weights(labels, train) if labels.ndim == 2 else None
    groups, names = unit if units < len(labels) else None, tuple(prepared.class_names)
    return Calibration.of_rows(logits, labels, names, source, weights, unlike, row_weights, groups)


def _weights(labels: Tensor, train: Sequence[Item], classes: int) -> Tensor | None:
    """Of how many training images a row stands: shots are drawn alike from classes that are not alike frequent.

    Returns:
        (n,), or (n, C) with several labels, with the mean 1; None where the frequencies are much the same.
    """
    if labels.ndim == 1:
        share = _shares(torch.tensor([i.class_label() for i in train if isinstance(i.class_label(), int)]), classes)
        own = _shares(labels, classes)
        there = (own > 0) & (share > 0)
        ratio = torch.where(there, share / own.clamp(min=1e-12), 1.0)
        if not there.any() or ratio[there].max() < UNEQUAL * ratio[there].min():
            return None
        weights = ratio[labels]
        return weights / weights.mean()
    taught = [item.class_label() for item in train if isinstance(item.class_label(), tuple)]
    if not taught:
        return None
    share, own = torch.tensor(taught).double().nanmean(dim=0), labels.double().nanmean(dim=0)  # (C,)
    sure = (share > 0) & (share < 1) & (own > 0) & (own < 1)
    positive = torch.where(sure, share / own.clamp(min=1e-12), 1.0)
    negative = torch.where(sure, (1 - share) / (1 - own).clamp(min=1e-12), 1.0)
    ratio = torch.maximum(positive, negative) / torch.minimum(positive, negative)
    if ratio.max() < UNEQUAL:
        return None
    return torch.where(labels == 1, positive, negative)


def _row_weights(labels: Tensor, train: Sequence[Item]) -> Tensor | None:
    """Of how many training images that have a label a row with a label stands; rows without one count as 1.

    Returns:
        (n,), or None where labels are much as frequent among the rows as among the training images.
    """
    rows, taught = (labels == 1).any(dim=1), [i.class_label() for i in train if isinstance(i.class_label(), tuple)]
    every = torch.tensor(taught, dtype=torch.float64).reshape(-1, labels.shape[1])
    share = every[(every == 1).any(dim=1)].nanmean(dim=0)  # (L,)
    if not rows.any() or not len(taught):
        return None
    own = labels[rows].double().nanmean(dim=0)
    sure = (share > 0) & (own > 0)
    ratio = torch.where(sure, share / own.clamp(min=1e-12), 1.0)[sure]
    if not len(ratio) or max(float(ratio.max()), 1 / float(ratio.min())) < UNEQUAL:
        return None
    weights = torch.ones(len(labels), dtype=torch.float64)
    weights[rows] = raked(labels[rows], share)
    return weights


def _shares(labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels.long(), minlength=classes).double()
    return counts / counts.sum().clamp(min=1)
