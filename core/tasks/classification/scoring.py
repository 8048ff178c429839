"""Scores of a fitted method and of what stands beside it; what judgements see of it; which model a run keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.domain import Metric
from ...contracts.features import FeatureSet, TextClassifier
from ...contracts.items import Item
from ...contracts.judgement import Findings, JudgedClassifier, Scores
from ...contracts.prepared import PreparedData, Shots, on_adapted
from ...errors import CapabilityError, DataError, first_of
from ...explanation.evidence import LabelledImages
from ...features.batches import PLAIN, logits_of
from ...judgements.baselines import ZERO_SHOT, BaselineComparison
from ...metrics.classification import check_scores, metrics_of
from ...metrics.intervals import class_intervals, units_of
from ...registry import build_adapter, build_judgement
from ...runs.run_sections import few_groups, small_test_set
from ...runs.sections import MEASURES, Measure, plural, points
from ...runtime.progress import Reporter
from .fitting import fit_adapter

PROBE = "linear-probe"
PROBE_FILE = "linear-probe.safetensors"
"""The logistic regression of a run, with which an evaluation on other data compares."""
LARGEST_CLASS = "largest-class"
"""What always answering the largest class of the test set is called among the methods of a comparison."""
MOST_PROBED = 1000
"""Labelled images up to which a logistic regression is fitted beside the adapter."""
COLUMNS = {"largest_class": "largest\nclass", "guessing": "guessing", "linear_probe": "linear\nprobe"}
WITHOUT_LABELS = "without-labels"
"""The judgement that says whether a method is kept where no label was learned from."""
FEW_OF_CLASS = 30
"""Test images of a class of which little can be said."""
LISTED = 6
"""Classes that are named."""


def score_on(
    prepared: PreparedData,
    adapter: Adapter,
    test: FeatureSet,
    class_names: Sequence[str],
    zero_shot: Adapter | None,
    reporter: Reporter,
    *,
    probe: Adapter | None = None,
    columns: Callable[[Tensor], Tensor] | None = None,
) -> Scores:
    """Scores of a fitted adapter, and of zero-shot, on the same rows of the prepared data.

    Args:
        prepared: the data on the backbone of the fit; where the adapter changed the towers its images are encoded anew.
        test: features by the backbone of the fit.
        probe: a logistic regression on the features of `test`, another baseline.
        columns: logits of the adapter and the probe -> those of the classes of the test set, where these are some of
            the fit's.

    Raises:
        DataError: the changed towers have no features for some of the images.
    """
    moved = on_adapted(prepared, adapter)
    seen = test if moved is prepared else moved.of_ids(test.ids, parts="parts" in adapter.at_predict)
    if seen.ids != test.ids:
        raise DataError(
            f"the trained towers give NaN or infinity for {len(test) - len(seen)} of {len(test)} test images; train "
            "with a smaller --lr"
        )
    columns = columns or (lambda logits: logits)
    if adapter.at_predict <= PLAIN:
        adapted = columns(logits_of(adapter, moved.batches(adapter, seen), len(seen)))
    else:
        with reporter.task(f"Predicting with {adapter.name}") as progress:
            adapted = columns(logits_of(adapter, moved.batches(adapter, seen), len(seen), progress))

    check_scores(test.ids or tuple(f"row {row}" for row in range(len(test))), adapted)

    def beside(model: Adapter | None) -> Tensor | None:
        return None if model is None else logits_of(model, prepared.batches(model, test), len(test))

    before = beside(zero_shot)
    metrics: dict[str, Any] = {
        "zero_shot": None if before is None else _metrics_of(before, test, class_names, prepared.metrics),
        "adapted": _metrics_of(adapted, test, class_names, prepared.metrics),
        "test_images": len(test),
    }
    scores = Scores(None, _on_cpu(before), adapted.cpu(), metrics)
    if test.labels is None:
        return scores
    scores.labels = test.labels.cpu()
    if test.groups and units_of(test.groups, len(test))[1] < len(test):  # else each image is one of its own
        scores.groups = test.groups
    if probe is not None:
        scores.probe_logits = _on_cpu(columns(beside(probe)))
    return scores


def _metrics_of(
    logits: Tensor, test: FeatureSet, class_names: Sequence[str], further: Sequence[Metric]
) -> dict[str, float]:
    """Metric name -> value, those of the domain's own among them; none without labels."""
    values = metrics_of(logits, test.labels, class_names)
    for metric in further if test.labels is not None else ():
        if metric.multilabel or not test.multilabel:
            values.update(metric.values(logits.float().cpu(), test.labels.cpu(), class_names))
    return values


def _on_cpu(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else logits.float().cpu()


def fitted_zero_shot(support: FeatureSet, classifier: TextClassifier) -> Adapter | None:
    """The zero-shot adapter of a classifier; None where there are no texts."""
    if not classifier.has_texts:
        return None
    adapter = build_adapter("zero-shot")
    adapter.fit(support, classifier)
    return adapter


def fitted_probe(
    adapter: Adapter,
    support: FeatureSet,
    classifier: TextClassifier,
    val: FeatureSet | None,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> Adapter | None:
    """The logistic regression on the images that an adapter was fitted on; None where it is that itself, where there
    are no labelled images or more than 1000, or where they are all of one class.

    Args:
        options: of the regression, where a protocol has others.
    """
    if adapter.name == PROBE or support.labels is None or not 0 < len(support) <= MOST_PROBED:
        return None
    probe = build_adapter(PROBE, **(options or {}))
    try:
        support, val = (None if each is None else each.one_view().without_parts() for each in (support, val))
        probe.fit(support, classifier, val=val, seed=seed)
    except CapabilityError:  # one class only
        return None
    return probe


def largest_class(items: Sequence[Item], num_classes: int) -> dict[str, Any] | None:
    """Metrics of always answering the largest class of test images; None where they have several labels or none."""
    labels = [item.class_label() for item in items]
    if any(label is None or isinstance(label, tuple) for label in labels):
        return None
    counts = torch.bincount(torch.tensor(labels), minlength=num_classes)
    present = int((counts > 0).sum())
    return {"accuracy": float(counts.max()) / len(labels), "balanced_accuracy": 1 / present, "seconds": 0.0}


@dataclass(kw_only=True)
class ClassificationFit(JudgedClassifier):
    """A fit, as its judgements see it."""

    before: Backbone | None = field(init=False)
    after: Backbone | None = field(init=False)
    metrics: dict[str, Any] = field(init=False)

    def __post_init__(self):
        self.before, self.metrics = self.prepared.backbone, self.scores.metrics
        self.after = on_adapted(self.prepared, self.adapter).backbone

    def fit_again(self, adapter: Adapter, prepared: PreparedData, shots: Shots, quiet: bool = False) -> FitReport:
        return fit_adapter(adapter, prepared, shots, self.seed, Reporter(quiet=True) if quiet else prepared.reporter)

    def score_again(self, adapter: Adapter, prepared: PreparedData, test: FeatureSet, beside: bool = False) -> Scores:
        zero_shot = fitted_zero_shot(test, prepared.classifier) if beside else None
        scores = score_on(prepared, adapter, test, prepared.class_names, zero_shot, prepared.reporter)
        if beside:
            of = {"test": test, "class_names": prepared.class_names, "scores": scores}
            again = replace(self, prepared=prepared, adapter=adapter, deciding="", **of)
            Findings({}).add([build_judgement("baselines")], again)
        return scores

    @cached_property
    def _classifier(self) -> TextClassifier:
        return self.prepared.classifier_of(self.class_names)

    def answers_seen_through(
        self, ids: Sequence[str], change: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> tuple[Tensor | None, Tensor]:
        changed = self.prepared.seen_through(change)
        seen = changed.of_ids(ids, parts="parts" in self.adapter.at_predict)
        if seen.ids != tuple(ids):
            raise DataError(f"{len(ids) - len(seen)} of {len(ids)} changed test images have no features; see above")
        zero_shot = fitted_zero_shot(seen, self._classifier)
        of = (seen, self.class_names, zero_shot, changed.reporter)
        scores = score_on(changed, self.adapter, *of, columns=self.columns)
        return scores.zero_shot_logits, scores.adapted_logits


@dataclass
class Fitted:
    """A fitted adapter with its scores.

    Attributes:
        notes: what its judgements say, in sentences.
        judged: the fit, as its judgements see it.
        findings: what they found.
        probe: the logistic regression on the same images, or None.
        labelled: the labelled images that it learned from, or None.
    """

    adapter: Adapter
    report: FitReport
    scores: Scores
    notes: list[str]
    judged: ClassificationFit
    findings: Findings
    probe: Adapter | None = None
    labelled: LabelledImages | None = None


def zero_shot_unless_better(done: Fitted, shots: Shots, scored: Callable[..., Fitted]) -> tuple[Fitted, Shots]:
    """The fit as it is, unless it was judged without labels and is not shown to do better than zero-shot; else that.

    Args:
        done: the fit, scored on the test images.
        scored: scores a fitted adapter as `done` was, judged without labels or not.

    Returns:
        what the run keeps, and the draw with the val images whose labels had a say.
    """
    judgement = done.findings.get(WITHOUT_LABELS)
    if judgement is None:
        return done, shots
    shots = shots if judgement.val is None else replace(shots, val=judgement.val)
    if judgement.evidence.better:
        return done, shots
    done.judged.reporter.info(f"{done.adapter.name} is not shown to help, so zero-shot is kept")
    adapter = fitted_zero_shot(shots.support, done.judged.prepared.classifier)
    report = FitReport(adapter.name, notes=[judgement.note(), *done.report.notes])
    zero_shot = scored(adapter, report, shots, Reporter(quiet=True), judge=False)
    zero_shot.findings[WITHOUT_LABELS] = judgement.turned_down(done.scores)
    zero_shot.scores.metrics.update(zero_shot.findings[WITHOUT_LABELS].to_json())
    return zero_shot, shots


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The baselines and the adapted model side by side, with the interval of the adapted model and its change from
    zero-shot."""
    compared = BaselineComparison.from_json(metrics)
    assert compared is not None
    of_groups = f" of {plural(compared.test_groups, 'group')}" if compared.test_groups else ""
    name = compared.measure.name
    decides = f"{name if name.isupper() else name.lower()} decides"
    options = {"title_justify": "left", "box": SIMPLE_HEAD, "pad_edge": False}
    table = Table(title=f"{plural(compared.test_images, 'test image')}{of_groups}, {decides}", **options)
    before, after = compared.beside_adapted(compared.zero_shot or {}), compared.adapted
    others = {key: compared.beside_adapted(of.scores) for key, of in compared.baselines.items() if key != ZERO_SHOT}
    for column in ("", "zero-\nshot", *(COLUMNS[key] for key in others), "adapted", "95 % interval", "change"):
        table.add_column(column, justify="left" if not column else "right")
    for key in [*(k for k in MEASURES if k in after), *(k for k in after if k not in MEASURES)]:
        measure, old, new = _measure(key), before.get(key), after[key]
        table.add_row(
            f"{measure.name} {measure.arrow}" if key in MEASURES or key.startswith("auroc/") else measure.name,
            measure.text(old),
            *(measure.text(other[key]) if key in other else "" for other in others.values()),
            measure.text(new),
            measure.between(compared.between("adapted", key)).replace("% to ", "–").replace(" to ", "–"),
            "" if old is None or new is None else points(measure, new - old),
        )
    return table


def _measure(key: str) -> Measure:
    """How a metric is written; one of a domain's own as a number."""
    return MEASURES.get(key) or Measure(key.replace("auroc/", "AUROC ").replace("_", " "), kind="number")


def warnings_of(
    comparison: BaselineComparison, labels: Tensor, class_names: Sequence[str], notes: Sequence[str]
) -> list[str]:
    """What must not be overlooked when reading the scores, in sentences."""
    sentences = [*small_test_set(len(labels), notes), *_few_of_a_class(labels, class_names)]
    sentences += few_groups(comparison.test_groups, comparison.test_images)
    at_chance = comparison.words_at_chance(len(class_names))
    sentences += [at_chance] if at_chance and at_chance not in notes else []
    if labels.ndim == 2:
        return sentences + _of_several_labels(comparison)
    name, share = commonest(labels, class_names)
    accuracy = comparison.adapted["accuracy"]
    if accuracy <= share:
        sentences.append(
            f"Always answering “{name}”, the most common class, would be right on {share:.1%} of the test images; the "
            f"adapted model is right on {accuracy:.1%}. Look at the balanced accuracy."
        )
    return sentences


def _few_of_a_class(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Classes of which the test set has so few images that nothing can be said of them."""
    if labels.ndim == 2:
        counts = ((labels == 1).sum(dim=0)).tolist()
    else:
        counts = torch.bincount(labels.long(), minlength=len(class_names)).tolist()
    few = sorted((count, name) for count, name in zip(counts, class_names) if 0 < count < FEW_OF_CLASS)
    if not few:
        return []
    listed = first_of([f"{name} ({count})" for count, name in few], LISTED)
    one_class = torch.zeros(few[0][0], dtype=torch.int64)
    low, high = class_intervals(one_class == 0, one_class, 1)[0]
    return [
        f"Fewer than {FEW_OF_CLASS} test images: {listed}. With {plural(few[0][0], 'image')}, even if all are "
        f"right, the true recall may lie anywhere between {low:.0%} and {high:.0%}."
    ]


def _of_several_labels(comparison: BaselineComparison) -> list[str]:
    blank = [key.split("/", 1)[1] for key, v in comparison.adapted.items() if key.startswith("auroc/") and v is None]
    if blank:
        return [f"Without a score, because the test set lacks one of the two values: {', '.join(blank)}."]
    return []


def commonest(labels: Tensor, class_names: Sequence[str]) -> tuple[str, float]:
    """The commonest class of the test set and its share."""
    counts = torch.bincount(labels.long(), minlength=len(class_names))
    return class_names[int(counts.argmax())], float(counts.max()) / max(1, len(labels))
