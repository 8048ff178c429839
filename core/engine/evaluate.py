"""Scores of a fitted adapter and of zero-shot on the same test set; `evaluate(run)` does it again later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from torch import Tensor

from ..contracts.adapter import Adapter, Batch
from ..contracts.domain import SPLITS, Domain
from ..contracts.errors import CapabilityError, ConfigError, DataError, UnknownNameError
from ..contracts.features import FeatureSet
from ..contracts.text import TextClassifier
from ..metrics.bootstrap import auroc_certainty
from ..metrics.classification import classification_metrics, multilabel_metrics
from ..metrics.significance import mcnemar, wilson_interval
from ..registry import build_adapter, load_adapter, load_domain
from ..registry.catalogue import did_you_mean
from ..runs.folder import Run
from .extras import PLAIN, logits_of, plain_batches
from .fit_retrieval import TASK
from .progress import Reporter
from .ranks import together
from .recipe import resolve
from .resources import check_at_prediction, with_resources
from .retrieval_run import evaluate_pairs
from .source import prepared_of

SMALL_TEST_SET = 100
SPLIT_NAMES = (*SPLITS, "all")


@dataclass
class Scores:
    """Logits and metrics of zero-shot and of the adapted model on one test set.

    Attributes:
        zero_shot_logits: (N, C), or None where zero-shot means nothing.
        adapted_logits: (N, C).
        metrics: {"zero_shot": {...}, "adapted": {...}, "intervals": {...}, "mcnemar": {...}, "test_images": N}.
    """

    labels: Tensor
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
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Evaluate both on the same images.

    Args:
        test: features of the backbone.
        seen: of the same images, by the towers that the adapter changed; by default `test`.
        batched: (adapter, features) -> batches with all that the adapter needs to predict; by default features alone.
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
        "zero_shot": None if before is None else metrics_of(before, test, class_names),
        "adapted": metrics_of(adapted, test, class_names),
        "test_images": len(test),
    }
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
        return score(adapter, zero_shot, test, class_names, seen, batched=moved.batches)
    with reporter.task(f"Predicting with {adapter.name}") as progress:
        return score(adapter, zero_shot, test, class_names, seen, batched=moved.batches, progress=progress)


def batched_logits(adapter: Adapter, features: FeatureSet) -> Tensor:
    """(N, C) logits of features, rows at a time."""
    return logits_of(adapter, plain_batches(features), len(features))


def on_adapted(prepared, adapter: Adapter):
    """The data on the backbone that the adapter's logits are of: the same, unless it changed the towers."""
    return prepared if prepared.backbone is None else prepared.on(adapter.adapted(prepared.backbone))


def metrics_of(logits: Tensor, test: FeatureSet, class_names) -> dict[str, float]:
    """Metric name -> value, all between 0 and 1."""
    logits, labels = logits.float().cpu(), test.labels.cpu()
    if test.multilabel:
        return multilabel_metrics(logits, labels, list(class_names))
    return classification_metrics(logits, labels, len(class_names))


def fitted_zero_shot(support: FeatureSet, classifier: TextClassifier) -> Adapter:
    """The zero-shot adapter of a classifier."""
    adapter = build_adapter("zero-shot")
    adapter.fit(support, classifier)
    return adapter


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n), how base-to-new results are summed up."""
    return 0.0 if base + new == 0 else 2 * base * new / (base + new)


def evaluate(
    run: str | Path,
    *,
    data: str | None = None,
    features: str | None = None,
    split: str = "test",
    device: str = "auto",
    workers: int | None = None,
    resources: Mapping[str, str] | None = None,
    classes: Any = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Evaluate a run again, on its own test split or on other data of the same classes.

    Args:
        run: a run folder.
        data: another data set; its test split if it has one, else all of it.
        features: a features file instead, for runs made from one.
        split: "test", "val", "train" or "all".
        device: "auto", "cpu", "cuda", ...
        workers: decoding threads.
        resources: name -> path, in place of the run's own ("boxes" of other images).
        classes: other class names, for runs of detection and segmentation by names.
        domain: a domain of your own that is not installed as a plug-in; by default the run's, by name.

    Returns:
        {"run", "data", "split", "test_images", "zero_shot", "adapted", "intervals", "mcnemar"}.

    Raises:
        DataError: the run is damaged, or the data does not fit it. CapabilityError: another backbone.
    """
    if split not in SPLIT_NAMES:
        raise UnknownNameError(f"--split {split}: no such split; {did_you_mean(split, SPLIT_NAMES)}")
    if data and features:
        raise ConfigError("--data and --features: give one of them")
    opened = Run.open(run)
    recipe = _recipe_of(opened, data, features)
    recipe.merge_from_dict({"device": device} | ({} if workers is None else {"workers": workers}))
    recipe = with_resources(recipe, resources)
    if opened.info.get("owned"):
        from .owned_use import evaluate_owned

        refuse_for_owned(opened, {"--features": features, "--resource": resources})
        told, elsewhere = reporter or Reporter(quiet=True), bool(data)
        return evaluate_owned(opened, domain or domain_of(opened), recipe, split, elsewhere, classes, told)
    if classes is not None:
        raise CapabilityError("--classes: for detection and segmentation; this run has its own classes")
    if opened.info["task"] == TASK:
        return together(lambda: evaluate_pairs(opened, recipe, split, reporter or Reporter(quiet=True)))
    source, reporter = data or features or "", reporter or Reporter(quiet=True)
    return together(lambda: _evaluate(opened, recipe, split, source, resources, reporter))


def refuse_for_owned(run: Run, given: Mapping[str, Any]) -> None:
    """Raise the CapabilityError of an option, among those given, that a task of a domain's own has no use for."""
    for option, value in given.items():
        if value or value == 0:
            raise CapabilityError(
                f"{option}: domain '{run.info['domain']}' scores {run.info['task']} without; leave it out"
            )


def domain_of(run: Run) -> Domain:
    """The domain that a run was made with.

    Raises:
        CapabilityError: it is not installed here.
    """
    try:
        return load_domain(run.info["domain"])
    except UnknownNameError as error:
        raise CapabilityError(
            f"{run.path}: made with domain '{run.info['domain']}', which is not installed here; install its package"
        ) from error


def _recipe_of(run: Run, data: str | None, features: str | None) -> Config:
    """The run's own recipe, on the data that is to be used."""
    recipe = resolve()
    recipe.merge_from_dict(run.info["recipe"])
    if data or features:
        recipe.features = features and str(features)
        recipe.data.path = str(data) if data else "sample"
        return recipe
    place = (run.info.get("data") or {}).get("path", recipe.data.path)
    if place != "sample" and not Path(place).exists():
        raise DataError(f"{place}: the run's own data is not there any more; give other data with --data or --features")
    if recipe.features:
        recipe.features = place
    else:
        recipe.data.path = place
    return recipe


def _evaluate(opened: Run, recipe: Config, split: str, source: str, resources, reporter: Reporter) -> dict[str, Any]:
    prepared = prepared_of(recipe, reporter, None if recipe.features else domain_of(opened))
    adapter = load_adapter(opened.adapter_path, prepared.backbone).to(_device_of(prepared))
    check_at_prediction(adapter, recipe, resources)
    _check_same_backbone(adapter, prepared, source)
    chosen = _split(prepared, split, everything=bool(source))
    chosen = _in_order_of(chosen, prepared.class_names, adapter.class_names_, str(source))
    zero_shot = fitted_zero_shot(chosen, prepared.classifier_of(adapter.class_names_))
    scores = score_on(prepared, adapter, chosen, adapter.class_names_, zero_shot, reporter)
    return {"run": str(opened.path), "data": prepared.data.name, "split": split, **scores.metrics}


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


def _check_same_backbone(adapter: Adapter, prepared, source: str) -> None:
    """Features files may say which backbone made them."""
    made_by = "" if prepared.backbone is not None else prepared.file.features.backbone
    if made_by and adapter.backbone_ and made_by != adapter.backbone_:
        raise CapabilityError(
            f"--features {source}: made by backbone {made_by}, the run by {adapter.backbone_}; use that one"
        )


def _device_of(prepared) -> torch.device:
    return prepared.backbone.device if prepared.backbone is not None else prepared.device


def _split(prepared, split: str, everything: bool) -> FeatureSet:
    """The rows of a split; "all", or another data set without a split of its own, gives every row."""
    given = {item.split for item in prepared.data.items}
    if split == "all" or (everything and not prepared.had_splits and split == "test"):
        items = prepared.data.items
    elif split in given:
        items = prepared.data.split(split)
    else:
        raise DataError(f"--split {split}: {prepared.data.name} has {', '.join(sorted(given))}")
    if prepared.backbone is None:
        return prepared._rows(items)
    return prepared.features(items, f"{split} images")


def _in_order_of(features: FeatureSet, have, want, source: str) -> FeatureSet:
    """Labels renumbered to the classes of the fit, by name."""
    from dataclasses import replace

    have, want = list(have), list(want)
    if have == want:
        return features
    unknown = [name for name in have if name not in want]
    if unknown:
        raise DataError(
            f"{source}: class '{unknown[0]}' is none of the run's ({', '.join(want[:8])}); rename or remove it"
        )
    if features.multilabel:
        if len(have) != len(want):
            raise CapabilityError(f"{source}: has {len(have)} labels, the run {len(want)}; give all of them")
        return replace(features, labels=features.labels[:, [have.index(n) for n in want]], class_names=tuple(want))
    position = torch.tensor([want.index(name) for name in have], device=features.labels.device)
    return replace(features, labels=position[features.labels], class_names=tuple(want))


def _on_cpu(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else logits.float().cpu()
