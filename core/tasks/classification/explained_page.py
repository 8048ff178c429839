"""What `predict --explain` writes: a page, and a heat map per image."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from torch import Tensor

from ...contracts.items import DomainData
from ...contracts.task import Use
from ...contracts.use import FittedRun
from ...runs.evaluations import make_folder
from ...runs.plots import data_uri
from ...runs.run_sections import Report, render_report
from ...runs.sections import ExplanationSection, TableSection, plural
from ...runtime.files import write_whole
from ...runtime.progress import Reporter
from .explaining import SIDE, Asked, Explainer, Reason
from .predictions import Predictions

PAGE, MAPS = "explanations.html", "heat-maps"
MOST = 200
"""Images that one page explains."""


def write_explanations(
    use: Use, explainer: Explainer, spec: str, data: DomainData, made: Predictions, features: Tensor, reporter: Reporter
) -> None:
    """Write the page and the pictures into `use.out`, and what they say into the rows of `made`.

    Args:
        spec: of the backbone.
        data: the images, among others.
        features: (N, D), of the towers of the run's adapter.

    Raises:
        DataError: nothing can be written there. CapabilityError: a method that was named cannot look into the towers.
    """
    folder, item_of = Path(use.out), {item.id: item for item in data.items}
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
    write_whole(folder / PAGE, _page(use.run, spec, explainer, made, reasons, targets))
    made.files.append(folder / PAGE)
    made.notes.append(f"explanations: {folder / PAGE}")


def _page(
    run: FittedRun, spec: str, explainer: Explainer, made: Predictions, reasons: list[Reason], targets: list[int]
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
    count = plural(len(answers), "image")
    lead = f"The answers of {run.info['adapter']} on {spec}, and what each is based on."
    place = f"Run {run.path.name}."
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
