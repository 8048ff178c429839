"""Scores of a fitted adapter and of zero-shot on the same test set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.domain import Metric
from ...contracts.features import Batch, FeatureSet, TextClassifier
from ...contracts.judgement import Scores
from ...contracts.prepared import PreparedData, on_adapted
from ...errors import DataError
from ...features.batches import PLAIN, logits_of, plain_batches
from ...metrics.classification import metrics_of
from ...metrics.resampling import units_of
from ...registry import build_adapter
from ...runs.comparison import ZERO_SHOT, Comparison
from ...runs.measures import MEASURES, points
from ...runs.sections import Measure, plural
from ...runtime.progress import Reporter

COLUMNS = {"largest_class": "largest\nclass", "guessing": "guessing", "linear_probe": "linear\nprobe"}


def score(
    adapter: Adapter,
    zero_shot: Adapter | None,
    test: FeatureSet,
    class_names,
    seen: FeatureSet | None = None,
    *,
    batched: Callable[[Adapter, FeatureSet], Iterable[Batch]] | None = None,
    unmoved: Callable[[Adapter, FeatureSet], Iterable[Batch]] | None = None,
    further: Sequence[Metric] = (),
    probe: Adapter | None = None,
    columns: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Evaluate both on the same images.

    Args:
        test: features of the backbone.
        seen: of the same images, by the towers that the adapter changed; by default `test`.
        batched: (adapter, features) -> batches with all that the adapter needs to predict; by default features alone.
        unmoved: the same of `test`, for what stands beside the adapter.
        further: metrics of a domain's own.
        probe: a logistic regression on the features of `test`, another baseline.
        columns: logits of the adapter and the probe -> those of the classes of the test set, where these are some of
            the fit's.
        progress: called as progress(done, total) while the adapter predicts.

    Raises:
        DataError: the changed towers have no features for some of the images.
    """
    if seen is not None and seen.ids != test.ids:
        raise DataError(
            f"the trained towers give NaN or infinity for {len(test) - len(seen)} of {len(test)} test images; train "
            "with a smaller --lr"
        )
    seen = test if seen is None else seen
    rows = plain_batches(seen) if batched is None else batched(adapter, seen)
    columns = columns or (lambda logits: logits)
    adapted = columns(logits_of(adapter, rows, len(seen), progress))
    unmoved = unmoved or (lambda beside, rows: plain_batches(rows))
    before = None if zero_shot is None else logits_of(zero_shot, unmoved(zero_shot, test), len(test))
    metrics: dict[str, Any] = {
        "zero_shot": None if before is None else _metrics_of(before, test, class_names, further),
        "adapted": _metrics_of(adapted, test, class_names, further),
        "test_images": len(test),
    }
    scores = Scores(None, _on_cpu(before), adapted.cpu(), metrics)
    if test.labels is None:
        return scores
    scores.labels, scores.groups = test.labels.cpu(), _groups(test)
    if probe is not None:
        scores.probe_logits = _on_cpu(columns(logits_of(probe, unmoved(probe, test), len(test))))
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


def _groups(test: FeatureSet) -> tuple[str, ...] | None:
    """The groups of the test images; None where each image is one of its own."""
    return test.groups if test.groups and units_of(test.groups, len(test))[1] < len(test) else None


def score_on(
    prepared: PreparedData,
    adapter: Adapter,
    test: FeatureSet,
    class_names,
    zero_shot: Adapter | None,
    reporter: Reporter,
    *,
    probe: Adapter | None = None,
    columns: Callable[[Tensor], Tensor] | None = None,
) -> Scores:
    """Scores on rows of the prepared data, with all that the adapter needs to predict.

    Args:
        prepared: the data on the backbone of the fit; where the adapter changed the towers its images are encoded anew.
        test: features by the backbone of the fit.
        probe, columns: as for `score`.
    """
    moved = on_adapted(prepared, adapter)
    seen = None if moved is prepared else moved.of_ids(test.ids, parts="parts" in adapter.at_predict)
    options = {"batched": moved.batches, "unmoved": prepared.batches, "further": prepared.metrics}
    options |= {"probe": probe, "columns": columns}
    if adapter.at_predict <= PLAIN:
        return score(adapter, zero_shot, test, class_names, seen, **options)
    with reporter.task(f"Predicting with {adapter.name}") as progress:
        return score(adapter, zero_shot, test, class_names, seen, progress=progress, **options)


def fitted_zero_shot(support: FeatureSet, classifier: TextClassifier) -> Adapter | None:
    """The zero-shot adapter of a classifier; None where there are no texts."""
    if not classifier.has_texts:
        return None
    adapter = build_adapter("zero-shot")
    adapter.fit(support, classifier)
    return adapter


def _on_cpu(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else logits.float().cpu()


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The baselines and the adapted model side by side, with the interval of the adapted model and its change from
    zero-shot."""
    found = Comparison.from_json(metrics)
    of_groups = f" of {plural(found.test_groups, 'group')}" if found.test_groups else ""
    name = found.measure.name
    decides = f"{name if name.isupper() else name.lower()} decides"
    options = {"title_justify": "left", "box": SIMPLE_HEAD, "pad_edge": False}
    table = Table(title=f"{plural(found.test_images, 'test image')}{of_groups}, {decides}", **options)
    before, after = found.zero_shot or {}, found.adapted
    others = {key: of.scores for key, of in found.baselines.items() if key != ZERO_SHOT}
    for column in ("", "zero-\nshot", *(COLUMNS[key] for key in others), "adapted", "95% interval", "change"):
        table.add_column(column, justify="left" if not column else "right")
    for key in [*(k for k in MEASURES if k in after), *(k for k in after if k not in MEASURES)]:
        measure, old, new = _measure(key), before.get(key), after[key]
        table.add_row(
            f"{measure.name} {measure.arrow}" if key in MEASURES or key.startswith("auroc/") else measure.name,
            measure.text(old),
            *(measure.text(other[key]) if key in other else "" for other in others.values()),
            measure.text(new),
            measure.between(found.between("adapted", key)).replace("% to ", "–").replace(" to ", "–"),
            "" if old is None or new is None else points(measure, new - old),
        )
    return table


def _measure(key: str) -> Measure:
    """How a metric is written; one of a domain's own as a number."""
    return MEASURES.get(key) or Measure(key.replace("auroc/", "AUROC ").replace("_", " "), kind="number")


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per image: what it is, how sure, the runners-up, and what else is known of the answers."""
    table = Table()
    further = [key for key in ("set", "open", "unlike") if any(row.get(key) is not None for row in rows)]
    titles = {"open": "left open", "unlike": "unlike the fit"}
    for name in ("image", "prediction", "confidence", "next", *(titles.get(key, key) for key in further)):
        table.add_column(name, justify="right" if name == "confidence" else "left", overflow="fold")
    for row in rows:
        if "labels" in row:
            pairs = zip(row["labels"], row["confidences"])
            label, sure = ", ".join(f"{name} {value:.1%}" for name, value in pairs) or "none", ""
            rest = [each for each in row["top"] if each["class"] not in row["labels"]]
        else:
            label, sure = row["label"], f"{row['confidence']:.1%}"
            rest = row["top"][1:]
        runners_up = ", ".join(f"{t['class']} {t['probability']:.1%}" for t in rest)
        table.add_row(row["id"], label, sure, runners_up, *(_in_words(row.get(key)) for key in further))
    return table


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "yes" if value else ""
