"""`fit`, `evaluate` and `predict`: the task is looked up and does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contracts.backbone import Backbone
from ..contracts.domain import Domain, OwnFiles
from ..contracts.items import Item
from ..contracts.judgement import EVAL, PREDICT, Evaluated
from ..contracts.options import keywords, options_from
from ..contracts.recipe import RUNS, TRAINED, Recipe, Trained, check_out_folder, spec_of
from ..contracts.task import FILE_KINDS, FitResult, Task
from ..contracts.use import USE, Predicted, Use, UseOptions
from ..data.verify import check_skipped
from ..errors import ConfigError, UnknownNameError, check_given, did_you_mean
from ..recipes.resolve import resolve, task_of, task_of_run, tell_default_domain
from ..registry.build import check_judging, outputs_of
from ..registry.catalogue import is_place
from ..runs.folder import Run, make_folder, write_metrics
from ..runs.redaction import redacted_result
from ..runs.sections import errors_in_words
from ..runtime.distributed import is_main, together
from ..runtime.progress import Reporter
from .models import opened_run
from .options import OF_SHARDS, PARQUET, ShardOptions, are_shards, refuse_of_shards

SPLIT_NAMES = (*Item.SPLITS, "all")


@keywords(Recipe, Trained)
def fit(
    recipe: Recipe | None = None,
    *,
    domain: str | Domain | None = None,
    backbone: str | Backbone | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> FitResult | None:
    """Adapt a model and write a run.

    Args:
        recipe: a resolved recipe; if None, one is made from the others.
        domain: a domain's name, or a domain of your own that is not installed as a plug-in.
        backbone: a spec of a pretrained model, as of `vladapt list backbones`, or `Backbone.from_module`.
        reporter: what shows progress and messages; by default they are not shown.
        given: keys of a recipe; those of the domain and the task are taken too. A group, such as `data`, is given as
            one word or as a dictionary: `fit(domain="medical", data="./scans", adapter={"name": "ape", "alpha": 2.0})`.

    Returns:
        The result; None on every rank but the first under torchrun.

    Raises:
        DataError, ConfigError, CapabilityError: one line each.
    """
    for name in TRAINED.keys() & given.keys():
        value = given.pop(name)
        given[f"adapter.{name}"] = ",".join(value) if isinstance(value, (list, tuple)) else value  # several losses
    recipe, given_domain = recipe_and_domain(recipe, domain, {**given, "backbone": spec_of(backbone)})
    if recipe.adapter_name is not None and is_place(recipe.adapter_name):
        raise ConfigError(f"--adapter {recipe.adapter_name}: a fitted run, which learns nothing; use `vladapt eval`")
    task = task_of(recipe, given_domain)
    check_out_folder(recipe.out or RUNS)
    settled, reporter = task.settled(recipe), reporter or Reporter(quiet=True)
    tell_default_domain(recipe, task, reporter)
    with errors_in_words(task, recipe.reading):
        result = together(lambda: task.fit(settled, reporter))
    return result and replace(result, task=task)


def plan(recipe: Recipe, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """What a fit of a resolved recipe would train, as facts by name; nothing is trained.

    Raises:
        DataError, ConfigError, CapabilityError: one line each.
    """
    task = task_of(recipe)
    settled, reporter = task.settled(recipe), reporter or Reporter(quiet=True)
    with errors_in_words(task, recipe.reading):
        return dict(together(lambda: task.planned(settled, reporter)))


@keywords(UseOptions, command="evaluate")
def evaluate(
    run: str | Path,
    *,
    out: str | Path | None = None,
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> dict[str, Any]:
    """Evaluate a run again, on its own test split or on other data of the same classes.

    Args:
        run: a run folder, or hf:OWNER/NAME of the Hugging Face hub.
        out: a folder for metrics.json and, for a classification, report.html and predictions.csv; by default nothing is
            written.
        given: options of `UseOptions`. Those of the judgements of the run's task are taken too.
        backbone: where the run's backbone is here, if not where the run says; or a module's, given again.
        domain: a domain of your own that is not installed as a plug-in; by default the run's, by name.

    Returns:
        {"run", "data", "split", "test_images", "zero_shot", "adapted", "intervals", "mcnemar"}; for a classification
        also "in_fit", how many of the images were in the fit, "skipped", and what its judgements find.

    Raises:
        DataError: the run is damaged, or the data does not fit it. CapabilityError: another backbone.
    """
    split = given.get("split") or USE["split"].default
    if split not in SPLIT_NAMES:
        raise UnknownNameError(f"--split {split}: no such split; {did_you_mean(split, SPLIT_NAMES)}")
    if given.get("data") and given.get("features"):
        raise ConfigError("--data and --features: give one of them")
    use = use_of(opened_run(run, backbone), "evaluate", given, out=out)
    task = task_of_run(use.run, domain)
    task.check_use(use, "evaluate")
    check_judging(task, EVAL, use.judging)
    check_out_folder(out, "evaluation")
    reporter = reporter or Reporter(quiet=True)
    with errors_in_words(task, use.run.info.recipe.get("data")):
        result = Evaluated.returned(together(lambda: task.evaluate(use, reporter)), task.title)
    result = redacted_result(result) if use.redact else result
    if out is not None and is_main():
        write_metrics(Path(out), result.to_json())
    return result.to_json()


@keywords(UseOptions, ShardOptions, command="predict")
def predict(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path | Sequence[str | Path] | None = None,
    outputs: str | Sequence[str] | None = None,
    explain: str | bool | None = None,
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> Predicted:
    """A run's predictions for files, or for all files in folders.

    Args:
        run: a run folder, or hf:OWNER/NAME of the Hugging Face hub: a run, or a model that a domain can use as it is.
        images: files or folders, of any kind the run's domain reads, or a features file, where the run was made from
            one; as shards also tars, Parquet files, and URLs.
        out: places to write to: files of rows (.csv, .jsonl, .html), files of the domain's own (`Domain.own_files`),
            and a folder for pictures and files, for tasks that write them; of shards a folder, or a URL of one.
        outputs: kinds of output to write into the folder of `out`, by name: "dicom-sr", "worklist:urgent=mass", ...;
            or "parquet": shards, which the same call continues where it was stopped.
        explain: explain each answer in the folder of `out`: a page, and heat maps by "grad-cam", "occlusion" or
            "rollout", "attention"; True for the one that suits the backbone.
        given: options of `UseOptions`. Those of the judgements of the run's task are taken too.
        backbone: where the run's backbone is here, if not where the run says; or a module's, given again.
        domain: a domain of your own that is not installed as a plug-in; by default the run's, by name.

    Returns:
        An object with `rows()`, one JSON-able dict per image, `skipped` and `files`; `OwnFiles` where the domain wrote
        files of its own, `PredictedShards` of shards.

    Raises:
        DataError: the run or all images cannot be read; or, once files are written, more images than are tolerated.
        CapabilityError: images are given to a run that was made from a features file.
    """
    opened = opened_run(run, backbone)
    if given.get("stream") and opened.place:
        raise ConfigError(
            f"--stream: changes the run, and {opened.place} is a published one; give the folder of a copy"
        )
    task, reporter = task_of_run(opened, domain), reporter or Reporter(quiet=True)
    of_shards = {name: given.pop(name) for name in OF_SHARDS & given.keys()}
    explain = "auto" if explain is True else explain or None
    if are_shards(outputs):
        named = [out] if isinstance(out, (str, Path)) else list(out or ())
        if outputs not in (PARQUET, [PARQUET]) or len(named) != 1:
            raise ConfigError("--as parquet: writes one folder, and nothing else; give --out DIR, and no other kind")
        use = use_of(opened, "predict", given, images=tuple(images), explain=explain)
        _check_prediction(task, use)
        asked = options_from(ShardOptions, of_shards, "predict")
        with errors_in_words(task, opened.info.recipe.get("data")):
            return _as_shards(use, task, str(named[0]), asked, reporter, spec_of(backbone), domain)
    refuse_of_shards(of_shards)
    folder, files = _places_of(out, task.own_files)
    kinds = () if outputs is None else outputs_of(outputs)
    places = {"images": tuple(images), "out": folder, "files": files, "outputs": kinds}
    use = use_of(opened, "predict", given, **places, explain=explain)
    _check_prediction(task, use)
    with errors_in_words(task, opened.info.recipe.get("data")):
        predicted = task.predict(use, reporter)
        for file in () if isinstance(predicted, OwnFiles) else files:
            task.write_rows(predicted, file)
        write_outputs(predicted, use, task)
        check_answered(predicted, use.tolerate)
    return predicted


def _check_prediction(task: Task, use: Use) -> None:
    task.check_use(use, "predict")
    check_judging(task, PREDICT, use.judging)


def _as_shards(use: Use, *how: Any) -> Any:
    from .predict_shards import predict_shards

    return together(lambda: predict_shards(use, *how))


def write_outputs(predicted: Any, use: Use, task: Task) -> None:
    """Write the kinds of output that are asked for, each into the folder of the use.

    Raises:
        DataError: nothing can be written there.
    """
    folder = Path(use.out or "")
    for kind in use.outputs:
        make_folder(folder)
        predicted.files += kind.write(predicted, use, task, folder)
    if named := [kind.name for kind in use.outputs if kind.identifies]:
        predicted.notes.append(
            f"files of {' and '.join(named)} name the patients, as their sources do; all other files have hashed ids, "
            "or the names of your files"
        )


def check_answered(predicted: Predicted, tolerate: float) -> None:
    """Raise the DataError of predictions for which too many files could not be read."""
    check_skipped(predicted.skipped, len(predicted.rows()) + len(predicted.skipped), tolerate)


def use_of(run: Run, command: str, given: Mapping[str, Any], **how: Any) -> Use:
    """A run used by a command; None, and no to what is off by default, count as not given.

    Raises:
        TypeError: a keyword that the command does not take.
    """
    accepted = {name: each for name, each in USE.items() if command in each.bounds.commands}
    values = {name: value for name, value in given.items() if value is not None and value is not False}
    for name, value in values.items():
        check_given(f"--{name.replace('_', '-')}", value)
    options = {name: value for name, value in values.items() if name in accepted}
    options |= {name: str(options[name]) for name in ("data", "features") if name in options}
    judging = {name: value for name, value in values.items() if name not in accepted}
    if judging and command == "export":
        raise TypeError(f"{command}() got an unexpected keyword argument '{next(iter(judging))}'")
    return Use(run, **options, **how, judging=judging)


def load_run(
    run: str | Path, *, device: str = "auto", backbone: str | Backbone | None = None, domain: Domain | None = None
) -> Any:
    """Load a classification run, whose model stays in memory between calls.

    Args:
        run: a run folder, or hf:OWNER/NAME of the Hugging Face hub.
        device: "auto", "cpu", "cuda", ...
        backbone: where the run's backbone is here, if not where the run says; or a module's, given again.
        domain: a domain of your own that is not installed as a plug-in; by default the run's, by name.

    Returns:
        A predictor: `.predict(images)` gives an object with `.rows()`, one JSON-able dict per image.

    Raises:
        DataError: the run is damaged. CapabilityError: it was made from a features file, or by another task.
    """
    use = Use(opened_run(run, backbone), device=device, images=("",))
    task = task_of_run(use.run, domain)
    with errors_in_words(task, use.run.info.recipe.get("data")):
        return task.predictor(use)


def _places_of(
    out: str | Path | Sequence[str | Path] | None, own: Sequence[str] = ()
) -> tuple[Path | None, tuple[Path, ...]]:
    """A folder, and files, which have one of the suffixes `FILE_KINDS` or of a domain's own.

    Args:
        own: suffixes of files that the domain writes.

    Raises:
        ConfigError: several folders, or a file in a folder that is not there.
    """
    kinds_of_files = (*FILE_KINDS, *own)
    listed = [] if out is None else [out] if isinstance(out, (str, Path)) else list(out)
    places = list(dict.fromkeys(Path(place) for place in listed))
    files = tuple(place for place in places if place.suffix.lower() in kinds_of_files and not place.is_dir())
    folders = [place for place in places if place not in files]
    if len(folders) > 1:
        kinds = ", ".join(kinds_of_files)
        raise ConfigError(f"--out {folders[1]}: a second folder; give one, and files that end in {kinds}")
    for file in files:
        if not file.parent.is_dir():
            raise ConfigError(f"--out {file}: there is no folder {file.parent}; create it first")
    return (folders[0] if folders else None), files


def recipe_and_domain(
    recipe: Recipe | None, domain: str | Domain | None, flags: Mapping[str, Any]
) -> tuple[Recipe, Domain | None]:
    """The recipe, its domain named in it, and the domain itself where it is one of the caller's own."""
    given_domain = domain if isinstance(domain, Domain) else None
    name = domain if given_domain is None else given_domain.name
    if recipe is None:
        return resolve(flags={**flags, "domain": name}, domain=given_domain), given_domain
    return (recipe if name is None else recipe.with_(domain=name)), given_domain
