"""`fit`: from a recipe to a run folder with an adapted model, its scores beside zero-shot, and a report."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import Config

from ..contracts.adapter import Adapter, FitReport
from ..contracts.domain import Domain
from ..contracts.errors import CapabilityError, ConfigError
from ..contracts.images import TrainingPlace
from ..registry import build_adapter
from ..runs.folder import Run
from ..runs.report import write_report
from ..tasks.classification.report import classification_report
from ..training.distributed import is_main
from .evaluate import Scores, fitted_zero_shot, harmonic_mean, on_adapted, score_on
from .fit_record import info_of, log_lines, notes_of, results_of, summary_of
from .fit_retrieval import TASK, is_retrieval
from .forgetting import forgetting, probe_of
from .prepare import Prepared, Shots, named_domain, read_data, restrict_classes, views_wanted
from .prepare_features import PreparedFeatures
from .progress import Reporter
from .ranks import together
from .recipe import adapter_options, check_named, resolve, trains_towers
from .resources import check_needs, check_resources
from .resume import kept_checkpoints
from .retrieval_run import fit_on_pairs
from .source import prepared_of
from .training_lines import training_lines


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
    own = domain if isinstance(domain, Domain) else None
    name = domain if own is None else own.name
    if recipe is None:
        recipe = resolve(flags={**flags, "domain": name})
    elif name is not None:
        recipe.domain = name
    reporter = reporter or Reporter(quiet=True)
    return together(lambda: _fit(recipe, reporter, own))


def fit_adapter(
    recipe: Config, prepared, shots: Shots, seed: int, reporter: Reporter, folder: Path | None = None
) -> tuple[Adapter, FitReport]:
    """Build the recipe's adapter and fit it on one draw.

    Args:
        folder: of checkpoints, for adapters that train towers.
    """
    adapter = build_adapter(recipe.adapter.name, **adapter_options(recipe))
    reporter.say(f"Fitting {adapter.name} on {len(shots.support)} images")
    with _resources(recipe, adapter, prepared, shots, reporter, folder) as resources:
        report = adapter.fit(
            shots.support,
            prepared.classifier,
            val=shots.val,
            unlabeled=shots.test.without_labels() if adapter.transductive else None,
            backbone=prepared.backbone,
            resources=resources,
            seed=seed,
        )
    return adapter, report


@contextmanager
def _resources(
    recipe, adapter: Adapter, prepared, shots: Shots, reporter: Reporter, folder
) -> Iterator[dict[str, Any]]:
    """What an adapter needs besides features, and a place to train."""
    found = prepared.resources.collect(adapter, shots)
    if "pixels" not in adapter.needs:
        yield found
        return
    with training_lines(reporter, f"Training {adapter.name}") as tell:
        place = TrainingPlace(folder, bool(recipe.resume and folder), tell, reporter.say)
        yield {**found, "place": place}


def _fit(recipe: Config, reporter: Reporter, domain: Domain | None) -> FitResult | None:
    started = time.monotonic()
    check_named(recipe, [recipe.adapter.name])
    if not recipe.features and (domain is not None or recipe.domain or recipe.task != TASK):
        domain = domain or named_domain(recipe)
        task = domain.check_task(recipe.task)
        if domain.owns(task):
            return _owned(recipe, domain, task, reporter)
        if recipe.plan:
            raise ConfigError(
                f"--config: domain '{domain.name}' fits adapters to {task} and runs no mmengine config; give a recipe, "
                "or --domain open-vocab"
            )
    if is_retrieval(recipe, domain):
        done = fit_on_pairs(recipe, domain, reporter)
        return None if done is None else FitResult(**done)
    planned = build_adapter(recipe.adapter.name, **adapter_options(recipe))
    check_resources(recipe, [planned])
    wanted = views_wanted(planned)
    prepared = prepared_of(recipe, reporter, domain)
    _refuse_early(recipe, planned, prepared)
    shots = prepared.draw(recipe.shots, recipe.seed, views=wanted)
    with kept_checkpoints(recipe, planned, prepared, shots, reporter) as folder:
        adapter, report = fit_adapter(recipe, prepared, shots, recipe.seed, reporter, folder)
        scores, said = _scored(recipe, prepared, adapter, shots, reporter)
        seconds = time.monotonic() - started
        notes = notes_of(prepared, recipe.shots, [*said, *report.notes], shots)
        if not is_main():
            return None
        info = info_of(recipe, prepared, adapter, report, shots, notes, seconds)
        with Run.create(recipe.out, recipe.domain or "features", adapter.name) as run:
            adapter.save(run.adapter_path)
            run.write(info, scores.metrics)
            run.log("\n".join(log_lines(info, report, scores.metrics)))
            write_report(run.path, classification_report(results_of(prepared, info, scores), run.path))
    counts = prepared.counts
    return FitResult(
        run.path,
        adapter,
        report,
        scores.metrics,
        summary_of(run, info, scores, seconds),
        notes,
        [tuple(pair) for pair in info["skipped"]],
        counts.computed,
        counts.cached,
    )


def _scored(recipe: Config, prepared, adapter: Adapter, shots: Shots, reporter: Reporter) -> tuple[Scores, list[str]]:
    """Zero-shot and the adapted model on the test set, on novel classes, and, where towers changed, on generic images;
    with sentences on the latter."""
    zero_shot = fitted_zero_shot(shots.support, prepared.classifier)
    moved = on_adapted(prepared, adapter)
    scores = score_on(prepared, adapter, shots.test, prepared.class_names, zero_shot, reporter)
    if recipe.novel:
        scores.metrics["novel"] = _novel(recipe, prepared, adapter, scores)
    if moved is prepared:
        return scores, []
    numbers, sentence = forgetting(recipe, prepared.backbone, moved.backbone, reporter)
    scores.metrics.update(numbers)
    return scores, [sentence]


def _refuse_early(recipe: Config, adapter: Adapter, prepared: Prepared | PreparedFeatures) -> None:
    """Raise what can be told before anything is encoded or fitted."""
    check_needs(recipe, adapter, prepared.backbone)
    adapter.check_kind(several_labels=prepared.data.kind == "multilabel", text_encoder=prepared.backbone is not None)
    if recipe.novel and not hasattr(adapter, "for_classes"):
        raise CapabilityError(
            f"--novel: adapter '{adapter.name}' has no scores for classes it never saw; learn a prompt instead (coop)"
        )
    if recipe.novel and (count := len(_left_out(recipe, prepared))) < 2:
        raise ConfigError(f"--novel: --classes leaves out {count}, two are needed at least; name fewer classes")
    if recipe.generic and trains_towers(recipe):
        probe_of(recipe.generic)  # a folder that cannot be used is found out here
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
    # A method without prompts of its own takes the text weights that zero-shot has, descriptions and all.
    wants = "classifier" in inspect.signature(adapter.for_classes).parameters
    text = {"classifier": unseen.classifier} if wants else {}
    moved = adapter.for_classes(prepared.backbone, unseen.class_names, **text)
    zero_shot = fitted_zero_shot(unseen.test, unseen.classifier)
    result = score_on(unseen, moved, unseen.test, unseen.class_names, zero_shot, Reporter(quiet=True)).metrics
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
