"""What `predict --explain` writes: a page, and a heat map per image."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ...contracts.domain import DomainData
from ...contracts.task import Use
from ...errors import ConfigError
from ...explanation.heat_maps import METHODS
from ...runs.evaluations import make_folder
from ...runs.plots import data_uri
from ...runs.run_sections import Report, render_report
from ...runs.sections import ExplanationSection, TableSection, plural
from ...runtime.files import write_whole
from ...runtime.progress import Reporter
from .explaining import SIDE, Asked, Explainer, Reason
from .labelled_examples import labelled_in_run

if TYPE_CHECKING:
    from .predictions import Predictions
    from .predictor import Predictor

AUTO = "auto"
PAGE, MAPS = "explanations.html", "heat-maps"
MOST = 200
"""Images that one page explains."""


def check_explained(use: Use) -> None:
    """Refuse what cannot be explained, before anything is read.

    Raises:
        ConfigError: no folder to write to, no such method, or a run that changes with each image.
    """
    if use.explain not in (AUTO, *METHODS):
        raise ConfigError(f"--explain-method {use.explain}: give one of {', '.join(METHODS)}")
    if use.out is None:
        raise ConfigError("--explain: writes a page and pictures; give a folder for them with --out DIR")
    if use.stream:
        raise ConfigError("--explain: with --stream the run changes from image to image; omit one of the two")


def write_explanations(
    use: Use, predictor: Predictor, data: DomainData, made: Predictions, features: Tensor, reporter: Reporter
) -> None:
    """Write the page and the pictures into `use.out`, and what they say into the rows of `made`.

    Args:
        data: the images, among others.
        features: (N, D), of the towers of the run's adapter.

    Raises:
        DataError: nothing can be written there. CapabilityError: a method that was named cannot look into the towers.
    """
    explainer, folder = _explainer(use, predictor), Path(use.out)
    item_of = {item.id: item for item in data.items}
    targets = made.probabilities[:MOST].argmax(dim=1).tolist()
    asked = [
        Asked(lambda item=item_of[name]: data.load(item), target, features[n])
        for n, (name, target) in enumerate(zip(made.ids, targets))
    ]
    reasons = explainer.reasons(asked, reporter)
    make_folder(folder / MAPS if any(each.heat is not None for each in reasons) else folder)
    made.explanations = []
    for n, (reason, target) in enumerate(zip(reasons, targets)):
        facts = {"class": made.class_names[target], **reason.to_dict()}
        if reason.heat is not None:
            path = folder / MAPS / f"{n + 1:04d}-{_safe(made.ids[n])}.png"
            write_whole(path, _png(reason.overlay))
            facts |= {"method": explainer.method, "heat_map": str(path)}
            made.files.append(path)
        made.explanations.append(facts)
    made.explanations += [{} for _ in made.ids[MOST:]]
    if len(made.ids) > MOST:
        made.notes.append(f"the first {MOST} of {len(made.ids)} images are explained; give fewer to explain others")
    if explainer.no_maps:
        made.notes.append(f"no heat maps: {explainer.no_maps}")
    write_whole(folder / PAGE, _page(predictor, explainer, made, reasons, targets))
    made.files.append(folder / PAGE)
    made.notes.append(f"explanations: {folder / PAGE}")


def _explainer(use: Use, predictor: Predictor) -> Explainer:
    towers, method = predictor.adapter.adapted(predictor.backbone), None if use.explain == AUTO else use.explain
    transform = predictor.domain.transforms(predictor.backbone, False, predictor.task)
    kept = labelled_in_run(use.run, predictor.domain, predictor.task, predictor.recipe.reading)
    return Explainer(predictor.adapter, towers, *kept, transform, method)


def _page(
    predictor: Predictor, explainer: Explainer, made: Predictions, reasons: list[Reason], targets: list[int]
) -> str:
    answers = [
        (
            None if reason.picture is None else data_uri(reason.picture, SIDE),
            made.ids[n],
            made.class_names[target],
            float(made.probabilities[n, target]),
            reason.shown(),
        )
        for n, (reason, target) in enumerate(zip(reasons, targets))
    ]
    note = explainer.note(any(each.examples_add is not None for each in reasons))
    notes = " ".join(f"{each[0].upper()}{each[1:].rstrip('.')}." for each in made.notes)
    sections = [ExplanationSection("Image by image", answers, f"{note} {notes}".strip())]
    if made.skipped:
        sections.append(TableSection("Could not be read", ("Image", "Why"), made.skipped, text_columns=2))
    info, count = predictor.run.info, plural(len(answers), "image")
    lead = f"The answers of {info['adapter']} on {predictor.backbone.spec}, and what each is based on."
    place = f"Run {predictor.run.path.name}."
    return render_report(
        Report(kind="Explanations", title=f"Answers for {count}, explained", lead=lead, sections=sections, place=place)
    )


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem)[:60] or "image"


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
