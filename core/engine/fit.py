"""`fit`: from a recipe to a run folder with an adapted model, its scores beside zero-shot, and a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import Config

from ..contracts.adapter import Adapter, FitReport
from ..contracts.domain import Domain
from ..contracts.errors import CapabilityError, ConfigError
from ..data.sampling import short_classes
from ..registry import build_adapter
from ..runs.folder import Run
from ..runs.report import ReportInput, write_report
from ..training.distributed import is_main
from .evaluate import Scores, fitted_zero_shot, harmonic_mean, score
from .prepare import Prepared, Shots, named_domain, read_data, restrict_classes, split_counts, views_wanted
from .prepare_features import PreparedFeatures
from .progress import Reporter
from .ranks import together
from .recipe import adapter_options, as_data, resolve
from .source import prepared_of
from .tables import choice, in_words
from .versions import now, versions


@dataclass
class FitResult:
    """What a fit made.

    Attributes:
        run: the run folder.
        adapter: the fitted adapter; None where the domain owns the task.
        report: what the fit chose.
        metrics: as in metrics.json.
        summary: the object `vladapt fit --json` prints.
        notes: sentences for the user.
        skipped: (image, reason) of what could not be read and was left out.
        encoded, from_store: images the backbone ran on, and images whose features were there already.
    """

    run: Path
    adapter: Adapter | None
    report: FitReport
    metrics: dict[str, Any]
    summary: dict[str, Any]
    notes: list[str]
    skipped: list[tuple[str, str]]
    encoded: int
    from_store: int


def fit(
    recipe: Config | None = None, *, domain: str | Domain | None = None, reporter: Reporter | None = None, **flags: Any
) -> FitResult | None:
    """Adapt a model and write a run.

    Args:
        recipe: a resolved recipe; if None, one is made of `flags`.
        domain: a domain's name, or a domain of your own that is not installed as a plug-in.
        reporter: who tells the user; by default nobody.
        flags: recipe keys: `fit(domain="medical", data="./scans", adapter={"name": "ape", "alpha": 2.0}, shots=4)`.

    Returns:
        The result; None on every rank but the first under torchrun.

    Raises:
        DataError, ConfigError, CapabilityError: one line each.
    """
    if recipe is None:
        recipe = resolve(flags=flags)
    own = domain if isinstance(domain, Domain) else None
    if domain is not None:
        recipe.domain = domain if own is None else own.name
    reporter = reporter or Reporter(quiet=True)
    return together(lambda: _fit(recipe, reporter, own))


def fit_adapter(recipe: Config, prepared, shots: Shots, seed: int, reporter: Reporter) -> tuple[Adapter, FitReport]:
    """Build the recipe's adapter and fit it on one draw."""
    adapter = build_adapter(recipe.adapter.name, **adapter_options(recipe))
    reporter.say(f"Fitting {adapter.name} on {len(shots.support)} images")
    report = adapter.fit(
        shots.support,
        prepared.classifier,
        val=shots.val,
        unlabeled=shots.test.without_labels() if adapter.transductive else None,
        backbone=prepared.backbone,
        seed=seed,
    )
    return adapter, report


def _fit(recipe: Config, reporter: Reporter, domain: Domain | None) -> FitResult | None:
    started = time.monotonic()
    if not recipe.features:
        domain = domain or named_domain(recipe)
        task = domain.check_task(recipe.task)
        if domain.owns(task):
            return _owned(recipe, domain, task, reporter)
    planned = build_adapter(recipe.adapter.name, **adapter_options(recipe))
    wanted = views_wanted(planned)
    prepared = prepared_of(recipe, reporter, domain)
    _refuse_early(recipe, planned, prepared)
    shots = prepared.draw(recipe.shots, recipe.seed, views=wanted)
    adapter, report = fit_adapter(recipe, prepared, shots, recipe.seed, reporter)
    zero_shot = fitted_zero_shot(shots.support, prepared.classifier)
    scores = score(adapter, zero_shot, shots.test, prepared.class_names)
    if recipe.novel:
        scores.metrics["novel"] = _novel(recipe, prepared, adapter, scores)
    seconds = time.monotonic() - started
    notes = _notes(prepared, recipe.shots, report, shots)
    if not is_main():
        return None
    info = _info(recipe, prepared, adapter, report, shots, notes, seconds, scores)
    with Run.create(recipe.out, recipe.domain or "features", adapter.name) as run:
        adapter.save(run.adapter_path)
        run.write(info, scores.metrics)
        run.log("\n".join(_log_lines(info, report, scores.metrics)))
        write_report(run.path, _report_input(prepared, info, scores))
    counts = prepared.counts
    return FitResult(
        run.path,
        adapter,
        report,
        scores.metrics,
        _summary(run, info, scores, seconds),
        notes,
        [tuple(pair) for pair in info["skipped"]],
        counts.computed,
        counts.cached,
    )


def _refuse_early(recipe: Config, adapter: Adapter, prepared: Prepared | PreparedFeatures) -> None:
    """Raise what can be told before anything is encoded or fitted."""
    adapter.check_kind(several_labels=prepared.data.kind == "multilabel", text_encoder=prepared.backbone is not None)
    if recipe.novel and not hasattr(adapter, "for_classes"):
        raise CapabilityError(
            f"--novel: adapter '{adapter.name}' has no scores for classes it never saw; learn a prompt instead (coop)"
        )
    if recipe.novel and (count := len(_left_out(recipe, prepared))) < 2:
        raise ConfigError(f"--novel: --classes leaves out {count}, two are needed at least; name fewer classes")
    if recipe.out and Path(recipe.out).is_file():
        raise ConfigError(f"--out {recipe.out}: a file, not a folder; give the folder that is to hold the run")
    prepared.classifier  # noqa: B018 (descriptions and templates that cannot be used are found out here)


def _owned(recipe: Config, domain: Domain, task: str, reporter: Reporter) -> FitResult | None:
    """A task that the domain trains and scores itself."""
    from .owned import fit_owned

    done = fit_owned(recipe, domain, task, reporter)
    if not is_main():
        return None
    return FitResult(run=done.pop("run"), adapter=None, encoded=0, from_store=0, **done)


def _novel(recipe: Config, prepared: Prepared | PreparedFeatures, adapter: Adapter, scores: Scores) -> dict[str, Any]:
    """Scores on the classes left out by `classes`, of an adapter that can name classes it never saw."""
    others = Config(recipe.to_dict())
    others.classes = _left_out(recipe, prepared)
    unseen = prepared_of(others, Reporter(quiet=True), getattr(prepared, "domain", None))
    moved = adapter.for_classes(prepared.backbone, unseen.class_names)
    result = score(moved, fitted_zero_shot(unseen.test, unseen.classifier), unseen.test, unseen.class_names).metrics
    for side in ("zero_shot", "adapted"):
        base = scores.metrics[side]["accuracy"]
        result[side]["harmonic_mean"] = harmonic_mean(base, result[side]["accuracy"])
    return result


def _left_out(recipe: Config, prepared: Prepared | PreparedFeatures) -> list[str]:
    """Names of the classes that `classes` leaves out."""
    seen = set(prepared.class_names)
    return [name for name in _all_class_names(recipe, prepared) if name not in seen]


def _all_class_names(recipe: Config, prepared) -> list[str]:
    if isinstance(prepared, PreparedFeatures):
        from ..features.files import load_features

        return list(load_features(recipe.features).classifier.class_names)
    return list(restrict_classes(read_data(recipe, prepared.domain, prepared.task), None).class_names)


def _notes(prepared, shots: int, report: FitReport, drawn: Shots) -> list[str]:
    notes = [*prepared.notes, *report.notes]
    short = short_classes(prepared.data.split("train"), shots, num_classes=len(prepared.class_names))
    if short:
        listed = ", ".join(f"{prepared.class_names[c]} ({n})" for c, n in sorted(short.items()))
        notes.append(f"Fewer than {shots} training images, all used: {listed}.")
    if len(drawn.test) < 100:
        notes.append(f"The test set has {len(drawn.test)} images; with fewer than 100 the interval is wide.")
    return list(dict.fromkeys(note[0].upper() + note[1:].rstrip(".") + "." for note in notes if note))


def _info(recipe, prepared, adapter, report, shots, notes, seconds, scores) -> dict[str, Any]:
    backbone = prepared.backbone
    return {
        "created": now(),
        "domain": recipe.domain,
        "task": prepared.task,
        "adapter": adapter.name,
        "adapter_options": adapter.options,
        "backbone": None
        if backbone is None
        else {
            "spec": backbone.spec,
            "fingerprint": backbone.fingerprint,
            "licence": backbone.licence,
            "image_size": backbone.image_size,
        },
        "data": {
            "name": prepared.data.name,
            "path": _place(recipe),
            "kind": prepared.data.kind,
            "licence": prepared.data.licence,
            "counts": split_counts(prepared.data),
        },
        "class_names": list(prepared.class_names),
        "templates": list(prepared.templates),
        "shots": recipe.shots,
        "seed": recipe.seed,
        "fit": report.to_dict(),
        "splits": {
            "support": list(shots.support.ids or ()),
            "val": list((shots.val.ids if shots.val is not None else None) or ()),
            "test": list(shots.test.ids or ()),
        },
        "skipped": [list(pair) for pair in _skipped(prepared)],
        "notes": notes,
        "encoded_images": prepared.counts.computed,
        "stored_images": prepared.counts.cached,
        "seconds": round(seconds, 3),
        "versions": versions(),
        "recipe": as_data(recipe),
    }


def _skipped(prepared: Prepared | PreparedFeatures) -> list[tuple[str, str]]:
    """What was left out while reading and while encoding, each once."""
    return list(dict.fromkeys((str(name), reason) for name, reason in [*prepared.data.skipped, *prepared.skipped]))


def _place(recipe: Config) -> str:
    """Where the data lies, whatever folder a later command is called from."""
    given = str(recipe.features or recipe.data.path)
    return given if given == "sample" else str(Path(given).absolute())


def _summary(run: Run, info: dict[str, Any], scores: Scores, seconds: float) -> dict[str, Any]:
    return {
        "run": str(run.path),
        **{key: info[key] for key in ("domain", "task", "adapter")},
        "backbone": None if info["backbone"] is None else info["backbone"]["spec"],
        "shots": info["shots"],
        "seed": info["seed"],
        **scores.metrics,
        "seconds": round(seconds, 3),
    }


def _report_input(prepared, info: dict[str, Any], scores: Scores) -> ReportInput:
    return ReportInput(
        info=info,
        class_names=list(prepared.class_names),
        labels=scores.labels,
        zero_shot_logits=scores.zero_shot_logits,
        adapted_logits=scores.adapted_logits,
        ids=info["splits"]["test"],
        thumbnails=prepared.thumbnail,
        metrics=scores.metrics,
        skipped=[tuple(pair) for pair in info["skipped"]],
    )


def _log_lines(info: dict[str, Any], report: FitReport, metrics: dict[str, Any]) -> list[str]:
    lines = [f"{key}: {info[key]}" for key in ("created", "domain", "task", "adapter", "shots", "seed")]
    lines += [f"options: {in_words(info['adapter_options'])}", choice(report)]
    lines += [f"note: {note}" for note in info["notes"]]
    lines += [f"skipped: {name}: {reason}" for name, reason in info["skipped"]]
    lines += [f"{side}: {in_words(metrics[side])}" for side in ("zero_shot", "adapted")]
    return [line for line in lines if line]
