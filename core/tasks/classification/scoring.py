"""Scores of a fitted adapter and of zero-shot on the same test set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.domain import Metric
from ...contracts.features import Batch, FeatureSet
from ...contracts.text import TextClassifier
from ...errors import DataError
from ...metrics.classification import classification_metrics, multilabel_metrics
from ...metrics.significance import auroc_certainty, mcnemar, wilson_interval
from ...registry import build_adapter
from ...runtime.progress import Reporter
from .batches import PLAIN, logits_of, plain_batches


@dataclass
class Scores:
    """Logits and metrics of zero-shot and of the adapted model on one test set.

    Attributes:
        labels: (N,), or (N, C); None where the test images have none.
        zero_shot_logits: (N, C), or None where zero-shot means nothing.
        adapted_logits: (N, C).
        metrics: {"zero_shot": {...}, "adapted": {...}, "intervals": {...}, "mcnemar": {...}, "test_images": N}.
    """

    labels: Tensor | None
    zero_shot_logits: Tensor | None
    adapted_logits: Tensor
    metrics: dict[str, Any]


def score(
    adapter: Adapter,
    zero_shot: Adapter | None,
    test: FeatureSet,
    class_names,
    seen: FeatureSet | None = None,
    *,
    batched: Callable[[Adapter, FeatureSet], Iterable[Batch]] | None = None,
    further: Sequence[Metric] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Evaluate both on the same images.

    Args:
        test: features of the backbone.
        seen: of the same images, by the towers that the adapter changed; by default `test`.
        batched: (adapter, features) -> batches with all that the adapter needs to predict; by default features alone.
        further: metrics of a domain's own.
        progress: called as progress(done, total) while the adapter predicts.

    Raises:
        DataError: the changed towers have no features for some of the images.
    """
    if seen is not None and seen.ids != test.ids:
        raise DataError(
            f"the trained towers give no finite features for {len(test) - len(seen)} of {len(test)} test images; "
            "train with a smaller --lr"
        )
    seen = test if seen is None else seen
    rows = plain_batches(seen) if batched is None else batched(adapter, seen)
    adapted = logits_of(adapter, rows, len(seen), progress)
    before = None if zero_shot is None else batched_logits(zero_shot, test)
    metrics: dict[str, Any] = {
        "zero_shot": None if before is None else metrics_of(before, test, class_names, further),
        "adapted": metrics_of(adapted, test, class_names, further),
        "test_images": len(test),
    }
    if test.labels is None:
        return Scores(None, None if before is None else before.cpu(), adapted.cpu(), metrics)
    if test.multilabel:
        metrics.update(auroc_certainty(_on_cpu(before), _on_cpu(adapted), test.labels.cpu()))
    else:
        metrics.update(_certainty(before, adapted, test.labels))
    return Scores(test.labels.cpu(), None if before is None else before.cpu(), adapted.cpu(), metrics)


def score_on(prepared, adapter: Adapter, test: FeatureSet, class_names, zero_shot: Adapter | None, reporter: Reporter):
    """Scores on rows of the prepared data, with all that the adapter needs to predict.

    Args:
        prepared: the data on the backbone of the fit; where the adapter changed the towers its images are encoded anew.
        test: features by the backbone of the fit.
    """
    moved = on_adapted(prepared, adapter)
    seen = None if moved is prepared else moved.of_ids(test.ids, parts="parts" in adapter.at_predict)
    if adapter.at_predict <= PLAIN:
        return score(adapter, zero_shot, test, class_names, seen, batched=moved.batches, further=prepared.metrics)
    with reporter.task(f"Predicting with {adapter.name}") as progress:
        told = {"further": prepared.metrics, "progress": progress}
        return score(adapter, zero_shot, test, class_names, seen, batched=moved.batches, **told)


def batched_logits(adapter: Adapter, features: FeatureSet) -> Tensor:
    """(N, C) logits of features, rows at a time."""
    return logits_of(adapter, plain_batches(features), len(features))


def on_adapted(prepared, adapter: Adapter):
    """The data on the backbone that the adapter's logits are of: the same, unless it changed the towers."""
    return prepared if prepared.backbone is None else prepared.on(adapter.adapted(prepared.backbone))


def metrics_of(logits: Tensor, test: FeatureSet, class_names, further: Sequence[Metric] = ()) -> dict[str, float]:
    """Metric name -> value, all between 0 and 1; none without labels."""
    if test.labels is None:
        return {}
    logits, labels = logits.float().cpu(), test.labels.cpu()
    if test.multilabel:
        values = multilabel_metrics(logits, labels, list(class_names))
    else:
        values = classification_metrics(logits, labels, len(class_names))
    for metric in further:
        if metric.multilabel or not test.multilabel:
            values.update(metric.values(logits, labels, class_names))
    return values


def fitted_zero_shot(support: FeatureSet, classifier: TextClassifier) -> Adapter:
    """The zero-shot adapter of a classifier."""
    adapter = build_adapter("zero-shot")
    adapter.fit(support, classifier)
    return adapter


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n), how base-to-new results are summed up."""
    return 0.0 if base + new == 0 else 2 * base * new / (base + new)


def _certainty(before: Tensor | None, adapted: Tensor, labels: Tensor) -> dict[str, Any]:
    right = adapted.argmax(dim=1) == labels.to(adapted.device)
    intervals = {"adapted": list(wilson_interval(int(right.sum()), len(right)))}
    if before is None:
        return {"intervals": intervals, "mcnemar": None}
    right_before = before.argmax(dim=1) == labels.to(before.device)
    intervals["zero_shot"] = list(wilson_interval(int(right_before.sum()), len(right)))
    test = mcnemar(right_before.cpu(), right.cpu())
    return {
        "intervals": intervals,
        "mcnemar": {"gained": test.gained, "lost": test.lost, "p_value": test.p_value},
    }


def _on_cpu(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else logits.float().cpu()
