"""What `predict --explain` writes: a page that says why each image was answered so, and heat maps, also for kinds of
output."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...contracts.domain import Domain
from ...contracts.items import DomainData
from ...contracts.output_kind import HeatMap
from ...contracts.run_info import FittedRun
from ...contracts.use import Use
from ...explanation.evidence import overlaid
from ...explanation.placing import on_image
from ...runs.folder import make_folder
from ...runs.run_sections import Report, render_report
from ...runs.sections import ExplanationSection, TableSection, data_uri, plural
from ...runtime.files import write_whole
from ...runtime.progress import Reporter
from ...runtime.reading import json_text
from .explaining import SIDE, ExplainedClass, Explainer, Reason
from .predictions import Predictions

if TYPE_CHECKING:
    from .tiles_shown import ShownTiles

PAGE, MAPS, TILES = "explanations.html", "heat-maps", "tiles"
MOST = 200
"""Images that one page explains."""


@dataclass(frozen=True)
class Explained:
    """Why images were answered so.

    Args:
        explainer: that says it.
        reasons, targets: of the first images, and the class that each explains.
    """

    explainer: Explainer
    reasons: list[Reason]
    targets: list[int]


def explained(
    explainer: Explainer,
    data: DomainData,
    made: Predictions,
    features: Tensor,
    reporter: Reporter,
    parts: Sequence[int] | None = None,
    tiles: Sequence[ShownTiles] = (),
) -> Explained:
    """Why the first images of `made` were answered so; their heat maps are then those of `made`.

    Args:
        data: the images, among others.
        features: (N, D), of the towers of the run's adapter.
        parts: of each sample the part that decided, which is then shown; -1 where it has one alone.
        tiles: of each of the first slides those that decide; none of other samples.

    Raises:
        CapabilityError: a method that was named cannot look into the towers.
    """
    item_of = {item.id: item for item in data.items}
    targets = made.most_likely[:MOST].tolist()
    asked = [
        ExplainedClass(
            lambda item=item_of[name]: data.load(item), target, features[n], None if parts is None else parts[n]
        )
        for n, (name, target) in enumerate(zip(made.ids, targets))
    ]
    reasons = explainer.reasons(asked, reporter)
    for reason, each in zip(reasons, tiles):
        reason.tiles, reason.picture = each, each.slide
    of = {name: (reason, target) for name, reason, target in zip(made.ids, reasons, targets)}

    def heat_map(name: str) -> HeatMap | None:
        reason, target = of.get(name, (Reason(), 0))
        transform, towers = explainer.transform, explainer.towers
        if reason.heat is None or transform is None or towers is None:
            return None
        picture = Domain.as_still(np.asarray(data.load(item_of[name])))
        values = on_image(reason.heat, picture.shape[:2], transform, towers)
        return HeatMap(
            values, overlaid(picture, torch.from_numpy(values)), made.class_names[target], str(explainer.method)
        )

    made.heat_map = heat_map
    if len(made.ids) > MOST:
        made.notes.append(f"the first {MOST} of {len(made.ids)} images are explained; give fewer to explain others")
    if explainer.no_maps and not tiles:
        made.notes.append(f"no heat maps: {explainer.no_maps}")
    return Explained(explainer, reasons, targets)


def write_explanations(use: Use, why: Explained, spec: str, made: Predictions) -> None:
    """Write the page and the pictures into `use.out`, and what they say into the rows of `made`.

    Args:
        spec: of the backbone.

    Raises:
        DataError: nothing can be written there.
    """
    folder = Path(use.out or "")
    make_folder(folder / MAPS if any(each.heat is not None for each in why.reasons) else folder)
    if any(each.tiles is not None for each in why.reasons):
        make_folder(folder / TILES)
    made.explanations = []
    for n, (reason, target) in enumerate(zip(why.reasons, why.targets)):
        facts = {"class": made.class_names[target], **reason.to_dict()}
        if reason.heat is not None:
            path = folder / MAPS / f"{n + 1:04d}-{_safe(made.ids[n])}.png"
            write_whole(path, _png(reason.overlay))
            facts |= {"method": why.explainer.method, "heat_map": str(path)}
            made.files.append(path)
        if reason.tiles is not None:
            facts |= _written_tiles(reason.tiles, folder / TILES / f"{n + 1:04d}-{_safe(made.ids[n])}", made)
        made.explanations.append(facts)
    made.explanations += [{} for _ in made.ids[MOST:]]
    write_whole(folder / PAGE, _page(use.run, spec, why, made))
    made.files.append(folder / PAGE)
    made.notes.append(f"explanations: {folder / PAGE}")


def _written_tiles(shown: ShownTiles, place: Path, made: Predictions) -> dict[str, Any]:
    """Write the deciding tiles of a slide where it is known where they lie; name of each file -> its path, of a patient
    "slides", a list of such."""
    if shown.slides:
        places = {name: place.with_name(f"{place.name}-{_safe(name)}") for name in shown.slides}
        files = [{"slide": name, **_written_tiles(each, places[name], made)} for name, each in shown.slides.items()]
        return {"slides": files}
    contents = {".geojson": shown.geojson, ".png": shown.picture}
    paths = {}
    for ending, content in contents.items():
        if content is not None:
            path = place.with_name(place.name + ending)
            write_whole(path, _png(content) if ending == ".png" else json_text(content))
            made.files.append(path)
            paths["geojson" if ending == ".geojson" else "tile_map"] = str(path)
    return paths


def _page(run: FittedRun, spec: str, why: Explained, made: Predictions) -> str:
    answers = [
        (
            None if reason.picture is None else data_uri(reason.picture, SIDE),
            made.ids[n],
            made.class_names[target],
            float(made.probabilities[n, target]),
            reason.shown(),
        )
        for n, (reason, target) in enumerate(zip(why.reasons, why.targets))
    ]
    note = why.explainer.note(any(each.examples_add is not None for each in why.reasons))
    notes = " ".join(f"{each[0].upper()}{each[1:].rstrip('.')}." for each in made.notes)
    sections: list[Any] = [ExplanationSection("Image by image", answers, f"{note} {notes}".strip())]
    if made.skipped:
        sections.append(TableSection("Could not be read", ("Image", "Why"), made.skipped, text_columns=2))
    count = plural(len(answers), "image")
    lead = f"The answers of {run.info.adapter} on {spec}, and what each is based on."
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
