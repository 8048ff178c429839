"""A run of a task that its domain owns, used again: scored on other data, asked of new images, given other classes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine import Config

from ...backbones.load import load_backbone
from ...contracts.domain import Domain, DomainData, Item
from ...contracts.errors import CapabilityError, DataError
from ...data.unlabelled import readable
from ...features.extract import cores
from ...recipes.resolve import data_options
from ...runs.folder import Run
from ...runtime.progress import Reporter
from .fitting import divided, evaluated, load_owned, read_owned, sound
from .runner import quiet


@dataclass
class OwnedPredictions:
    """What a domain that owns its task says of some images: its own rows, one an image."""

    own_rows: list[dict[str, Any]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def rows(self, top: int = 3) -> list[dict[str, Any]]:
        """The domain's rows, each with its `id`."""
        return self.own_rows


def evaluate_owned(
    run: Run, domain: Domain, recipe: Config, split: str, elsewhere: bool, classes: Any, reporter: Reporter
) -> dict[str, Any]:
    """Score a run's model again; see `evaluate`.

    Args:
        recipe: the run's own, on the data that is to be used.
        elsewhere: the data is not the run's own; without splits all of it is tested on.
        classes: other class names for the model, or None.
    """
    task = run.info["task"]
    backbone = load_backbone(run.info["backbone"]["spec"], device=recipe.device, image_size=recipe.image_size)
    data = read_owned(recipe, domain, task)
    chosen = _chosen(domain, task, data, recipe, split, elsewhere, reporter)
    model = load_owned(run, backbone.device)
    if classes is not None:
        domain.set_classes(task, model, classes)
    found = evaluated(domain, task, model, chosen, backbone, reporter)
    scores = {"zero_shot": None, "adapted": found.metrics, "test_images": len(chosen.split("test"))}
    return {"run": str(run.path), "data": data.name, "split": split, **scores, "notes": found.notes}


def predict_owned(
    run: Run,
    domain: Domain,
    images: list,
    device: str,
    reporter: Reporter,
    classes: Any = None,
    out: str | Path | None = None,
) -> OwnedPredictions:
    """Predictions of a task that the domain owns, by its own rule, written into `out` where it is given."""
    task, recipe = run.info["task"], Config(run.info["recipe"])
    backbone = load_backbone(run.info["backbone"]["spec"], device=device, image_size=recipe.image_size)
    folder = _folder(domain, task, out) if out else None
    data = readable(_decodable(domain.read_images(images, **data_options(recipe))))
    model = load_owned(run, backbone.device)
    names: Sequence[str] = run.info["class_names"]
    if classes is not None:
        if model is None:
            raise CapabilityError(f"{run.path}: nothing was trained in this run; leave --classes away")
        names = domain.set_classes(task, model, classes)
    with reporter.task("Looking at images") as domain.progress, quiet():
        rows = domain.predict(task, model, data, backbone)
    files = domain.save_predictions(task, rows, data, names, folder) if folder else []
    return OwnedPredictions(rows, data.skipped, files)


def _chosen(
    domain: Domain, task: str, data: DomainData, recipe: Config, split: str, elsewhere: bool, reporter: Reporter
) -> DomainData:
    """The data with the chosen split as its test split; the recipe's choices are of the run's own data."""
    given = {item.split for item in data.items if item.split}
    if split == "all" or (elsewhere and split == "test" and len(given) < 2):  # a file of one split is tested on whole
        data, split = sound(data, recipe, reporter), "test"
        data = data.with_items([item.with_(split=split) for item in data.items])
    else:
        data = divided(data, recipe, reporter)
    data = data if elsewhere else domain.choose(task, recipe, data)
    items = [item.with_(split="test") for item in data.split(split)]
    if not items:
        raise DataError(f"--split {split}: {data.name or 'the data'} has no such images; give another split, or all")
    return data.with_items(items)


def _decodable(data: DomainData) -> DomainData:
    """The images that can be decoded; the others are named in `skipped`."""

    def reason(item: Item) -> str:
        try:
            data.load(item)
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(cores()) as threads:
        reasons = list(threads.map(reason, data.items))
    kept = data.with_items([item for item, why in zip(data.items, reasons) if not why])
    kept.skipped = [*data.skipped, *((item.id, why) for item, why in zip(data.items, reasons) if why)]
    return kept


def _folder(domain: Domain, task: str, out: str | Path) -> Path:
    """The folder, before anything is predicted in vain."""
    folder = Path(out)
    if type(domain).save_predictions is Domain.save_predictions:
        domain.save_predictions(task, [], DomainData([], (), load=lambda item: None), (), folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be made ({error.strerror}); give a folder you may write to") from error
    return folder
