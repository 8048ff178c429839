"""Why a classification says what it says of an image: labelled images, where in it the score comes from, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.features import PROJECTED, Batch
from ...contracts.items import Decoded
from ...contracts.prepared import PreparedData, on_adapted
from ...contracts.use import Use
from ...errors import CapabilityError, ConfigError, DataError
from ...explanation.evidence import (
    ATTENTION,
    METHODS,
    NEAREST,
    OCCLUSION,
    ROLLOUT,
    Example,
    LabelledImages,
    Seen,
    as_seen,
    check_method,
    default_method,
    heat_map,
    overlaid,
)
from ...features.extract import encoder
from ...runs.sections import PictureSection, Reasons, data_uri
from ...runtime.progress import Reporter

if TYPE_CHECKING:
    from .tiles_shown import ShownTiles

Explain = Callable[[Sequence[tuple[int, int]]], tuple[Sequence[Reasons], str]]
"""(Row, class index) pairs -> why each was called that, and the words above them."""
AUTO = "auto"
"""Heat maps by the method that suits the backbone."""
CAUTION = (
    "An aid, not a proof: a heat map marks where this picture changes the score, not why the model learned that, and "
    "images with similar features need not be the cause."
)
MAP_WORDS = {
    "grad-cam": "Heat maps are made by Grad-CAM, in the cells of the tower’s last feature map",
    "occlusion": "Heat maps are made by occlusion: how far the score falls where a grey square covers the picture",
    "rollout": "Heat maps are made by attention rollout: what the tower attended to, whatever the answer",
    "attention": "Heat maps are made of the method’s attention: which patches the class looked at",
}
OF_TILES = "slides are read by their tiles, and methods on bags name those that decide"
SIDE, TILE, SMALL = 190, 150, 96
"""Pixels of a mistake, of one of many pictures, and of a labelled image, on a page."""
BESIDE_A_MISTAKE = 4
"""Labelled images beside each."""
DECODED = 48
"""Labelled images that stay decoded, since the same ones stand beside several others."""
MOST_ON_A_SHEET = 12
STRIP, SHEET = 856, 418
"""Width in pixels of a strip, and of one of a contact sheet."""


@dataclass(frozen=True)
class ExplainedClass:
    """An image and the class whose score is explained.

    Args:
        load: gives the decoded image; None where there is no picture.
        target: class index.
        features: (D,) of the towers of the adapter; None: they are made from the picture.
        part: of several parts the one that decided; None, or -1: that is not known.
    """

    load: Callable[[], Decoded] | None
    target: int
    features: Tensor | None = None
    part: int | None = None


@dataclass
class Reason:
    """Why one score is what it is.

    Attributes:
        examples: labelled images, those that count most first.
        pictures: of each its decoded image, or None.
        logit: that is explained; None where the score could not be asked for on its own.
        examples_add: what all labelled images add to it together; None where it is no sum over them.
        picture: (H, W, 3) uint8 as the tower takes it, of several parts the one that decided, else the middle one; or
            None.
        heat: (H, W) in 0..1, or None.
        no_map: why there is no heat map, or "".
        tiles: of a slide those that decide; None of other samples.
    """

    examples: list[Example] = field(default_factory=list)
    pictures: list[Decoded | None] = field(default_factory=list)
    logit: float | None = None
    examples_add: float | None = None
    picture: np.ndarray | None = None
    heat: Tensor | None = None
    no_map: str = ""
    tiles: ShownTiles | None = None

    @property
    def overlay(self) -> np.ndarray | None:
        """(H, W, 3) uint8: the heat map over the picture, or the deciding tiles on their slide."""
        if self.tiles is not None:
            return self.tiles.picture
        return None if self.heat is None else overlaid(self.picture, self.heat)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        facts: dict[str, Any] = {"examples": [each.to_dict() for each in self.examples]}
        if self.examples_add is not None:
            facts |= {"logit": self.logit, "examples_add": self.examples_add}
        if self.tiles is not None:
            facts |= {"weights": self.tiles.tiles.kind, "parts": self.tiles.rows()}
        return {**facts, **({"no_heat_map": self.no_map} if self.no_map else {})}

    def shown(self) -> Reasons:
        """As a page shows it."""
        overlay = self.overlay
        small = [None if image is None else data_uri(image, SMALL) for image in self.pictures]
        examples = [(image, ", ".join(each.labels), _number(each)) for image, each in zip(small, self.examples)]
        side = SIDE if self.tiles is None else SHEET
        return Reasons(None if overlay is None else data_uri(overlay, side), examples, self.words())

    def words(self) -> str:
        """What the labelled images add, in a sentence; and why there is no map."""
        sentences = [] if not self.no_map else [f"No heat map: {self.no_map}."]
        if self.tiles is not None:
            sentences.append(self.tiles.words())
        if self.examples_add is not None:
            sentences = [f"The labelled images add {self.examples_add:.2f} of the logit {self.logit:.2f}.", *sentences]
        return " ".join(sentences)


def _number(example: Example) -> str:
    if example.share is None:
        return f"similarity {example.similarity:.2f}"
    return f"{'takes' if example.part < 0 else 'adds'} {example.share:.0%}"


class Explainer:
    """What explains the scores of one adapter.

    Args:
        adapter: fitted.
        towers: whose features it takes; None of a run of features.
        labelled: the labelled images of its fit, or None.
        picture_of: a labelled image -> its decoded picture, or None.
        transform: decoded image -> pixels, as the features were made.
        method: of `heat_maps.METHODS`; None for the default of the towers.
        no_pictures: why there are no heat maps where there are no towers.
        quick: no method that asks the tower many times per image, unless it is named; and of samples with several
            parts (clips, volumes) no more is decoded than must be.

    Attributes:
        no_maps: why there are no heat maps, or "".

    Raises:
        ConfigError, CapabilityError: a method that was named, and cannot be.
    """

    def __init__(
        self,
        adapter: Adapter,
        towers: Backbone | None,
        labelled: LabelledImages | None,
        picture_of: Callable[[Example], Decoded | None],
        transform: Callable[[Decoded], Tensor] | None,
        method: str | None = None,
        quick: bool = False,
        no_pictures: str = "the run was made from a file of features, so there are no pictures",
    ):
        self.adapter, self.towers, self.labelled, self.picture_of = adapter, towers, labelled, picture_of
        self._pictures: dict[int, Decoded | None] = {}
        self.transform, self.method, self.no_maps, self.quick, self._several = transform, method, "", quick, False
        if towers is None:
            self.no_maps = no_pictures
            return
        self.seen, self.method = Seen(towers, adapter), method or default_method(towers, adapter)
        try:
            check_method(self.method, self.seen)
        except CapabilityError as error:
            if method is not None:
                raise
            self.no_maps = str(error)
        if quick and method is None and self.method == OCCLUSION and not self.no_maps:
            self.no_maps = (
                f"for this backbone they are made by {OCCLUSION}, which takes long; use vladapt predict --explain"
            )

    @property
    def examples_count(self) -> bool:
        """Whether the score is a sum over labelled images, with parts that can be told."""
        return "examples" in self.adapter.can

    def note(self, exact: bool) -> str:
        """What a page says above explanations.

        Args:
            exact: whether any of them tells parts of a score.
        """
        if self.labelled is None:
            examples = "This run keeps no labelled images."
        elif exact:
            examples = (
                "Labelled images are those that add most to the logit of the answer, or take most from it: the logit "
                "is a sum over them, and the shares are exact."
            )
        else:
            examples = "Labelled images are those with the most similar features (cosine)."
        if self.no_maps:
            return f"{examples} No heat maps: {self.no_maps.rstrip('.')}. {CAUTION}"
        if self.method in (ROLLOUT, ATTENTION):
            return f"{examples} {MAP_WORDS[self.method]}. {CAUTION}"
        score = "the label’s logit" if self.adapter.multilabel_ else "the logit above the mean of the other classes’"
        return f"{examples} {MAP_WORDS[self.method]}; they follow {score}. {CAUTION}"

    def reasons(self, asked: Sequence[ExplainedClass], reporter: Reporter, count: int = NEAREST) -> list[Reason]:
        """Of each image why.

        Args:
            count: labelled images per image.
        """
        made = []
        with reporter.task("Explaining") as progress:
            for each in asked:
                made.append(self._reason(each, count))
                progress(len(made), len(asked))
        return made

    def _reason(self, asked: ExplainedClass, count: int) -> Reason:
        reason, pixels = Reason(), None
        try:
            if self._needs_pixels(asked):
                pixels = self.transform(asked.load())
                self._several = pixels.ndim != 3
        except DataError as error:
            reason.no_map = str(error)
        features = asked.features
        if features is None and pixels is not None and self.towers is not None and not self._several:
            features = encoder(self.towers, PROJECTED, None)(pixels[None])[0].clone()
        if features is not None:
            self._with_examples(reason, features, asked.target, count)
        if pixels is not None:
            shown = pixels
            if shown.ndim == 4 and asked.part is not None and asked.part >= 0:
                shown = shown[asked.part]
            while shown.ndim > 3:  # of views, frames or slices the middle one
                shown = shown[len(shown) // 2]
            reason.picture = as_seen(shown, self.towers)
        if self._several and not self.no_maps:
            reason.no_map = "samples have several parts"
        elif pixels is not None and not self.no_maps:
            self._with_map(reason, pixels, asked.target)
        return reason

    def _needs_pixels(self, asked: ExplainedClass) -> bool:
        if asked.load is None or self.transform is None:
            return False
        return asked.features is None or not (self.quick and (self._several or self.no_maps))

    def _with_examples(self, reason: Reason, features: Tensor, target: int, count: int) -> None:
        if self.labelled is None:
            return
        parts = self._parts(reason, features, target)
        if parts is None:
            reason.examples = self.labelled.nearest(features[None], count)[0]
        else:
            reason.examples = self.labelled.by_part(features[None], parts[None], count)[0]
        plain = self.quick and self._several
        reason.pictures = [None if plain else self._picture(example) for example in reason.examples]

    def _picture(self, example: Example) -> Decoded | None:
        if example.row not in self._pictures:
            if len(self._pictures) == DECODED:
                del self._pictures[next(iter(self._pictures))]
            self._pictures[example.row] = self.picture_of(example)
        return self._pictures[example.row]

    @torch.no_grad()
    def _parts(self, reason: Reason, features: Tensor, target: int) -> Tensor | None:
        """(N,) what each labelled image of the fit adds to the logit; None where it is no such sum."""
        if not self.examples_count or not self.adapter.at_predict <= {"features", "text_encoder"}:
            return None
        batch = Batch(features=features[None])
        rows = self.adapter.example_parts(batch, torch.tensor([target], device=features.device))
        if rows is None or rows.shape[1] % self.labelled.total:
            return None
        reason.examples_add, reason.logit = float(rows.sum()), float(self.adapter.logits(batch)[0, target])
        return rows[0].view(self.labelled.total, -1).sum(dim=1)

    def _with_map(self, reason: Reason, pixels: Tensor, target: int) -> None:
        try:
            reason.heat = heat_map(self.method, self.seen, pixels, target)
        except CapabilityError as error:
            reason.no_map = str(error)


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


def explained_mistakes(
    prepared: PreparedData,
    adapter: Adapter,
    labelled: LabelledImages | None,
    features: Tensor,
    decoded: Callable[[int], Decoded] | None,
    picture_of: Callable[[Example], Decoded | None],
) -> Explain:
    """What explains scored rows.

    Args:
        labelled: the images that the adapter learned from, or None.
        features: (N, D), of the rows that were scored, by the towers of `prepared`.
        decoded: a row -> its decoded image; None: there are no images.
        picture_of: a labelled image -> its decoded picture, or None.
    """

    def explain(asked: Sequence[tuple[int, int]]) -> tuple[Sequence[Reasons], str]:
        towers, transform, moved = None, None, on_adapted(prepared, adapter)
        if prepared.backbone is not None:
            towers = moved.backbone
            transform = prepared.domain.transforms(towers, False, prepared.task)
        explainer = Explainer(adapter, towers, labelled, picture_of, transform, quick=True)
        images = [
            ExplainedClass(
                None if decoded is None else lambda row=row: decoded(row),
                target,
                features[row] if moved is prepared else None,
            )
            for row, target in asked
        ]
        reasons = explainer.reasons(images, prepared.reporter, BESIDE_A_MISTAKE)
        if len(why := {each.no_map for each in reasons}) == 1 and "" not in why:  # said once, above them
            explainer.no_maps = why.pop()
            for each in reasons:
                each.no_map = ""
        exact = any(each.examples_add is not None for each in reasons)
        return [each.shown() for each in reasons], explainer.note(exact)

    return explain


def picture_in(prepared: PreparedData) -> Callable[[Example], Decoded | None]:
    """What decodes the labelled images of a fit, which are among its data; None of one that cannot be read."""
    items = {item.id: item for item in prepared.data.items}

    def picture(example: Example) -> Decoded | None:
        try:
            return None if prepared.backbone is None else prepared.data.load(items[example.id])
        except (DataError, KeyError):
            return None

    return picture


@dataclass(frozen=True)
class SamplePictures:
    """Of the test samples.

    Args:
        load: row -> decoded image (H, W, 3), or (T, H, W, 3); None: there are no pictures.
        ids: names; may be empty.
    """

    load: Callable[[int], np.ndarray] | None
    ids: Sequence[str] = ()

    @cached_property
    def in_parts(self) -> bool:
        """Whether the samples have parts, by the first one."""
        first = self._decoded(0)
        return first is not None and first.ndim == 4

    def of(self, row: int) -> tuple[str | None, str]:
        """A sample as a data: address, None where it can no longer be read; and its name."""
        image, name = self._decoded(row), self._name(row)
        if image is None:
            return None, name
        return (data_uri(PictureSection.strip(image), STRIP) if image.ndim == 4 else data_uri(image)), name

    def section(self, title: str, rows: Sequence[tuple[int, str]]) -> PictureSection | None:
        """Some samples, each with its name and some words below; None where none can be shown.

        Args:
            rows: (row, words).
        """
        pictures = [(self._decoded(row), f"{self._name(row)}: {words}") for row, words in rows]
        shown = [
            (PictureSection.strip(each if each.ndim == 4 else each[None]), text)
            for each, text in pictures
            if each is not None
        ]
        return PictureSection(title, shown, side=SHEET if self.in_parts else TILE) if shown else None

    def contact_sheet(self, labels: Tensor, class_names: Sequence[str]) -> PictureSection | None:
        """The first test sample of each class as a strip; None of images without parts.

        Args:
            labels: (N,) class indices.
        """
        if not len(labels) or not self.in_parts:
            return None
        first = {label: row for row, label in reversed(list(enumerate(labels.tolist())))}
        rows = [(first[label], name) for label, name in enumerate(class_names) if label in first][:MOST_ON_A_SHEET]
        shown = [(PictureSection.strip(image), name) for row, name in rows if (image := self._decoded(row)) is not None]
        note = "The first test sample of each class" + (
            f", of the first {MOST_ON_A_SHEET} classes." if len(first) > MOST_ON_A_SHEET else "."
        )
        return PictureSection("What the samples look like", shown, note, SHEET, columns=2) if shown else None

    def _name(self, row: int) -> str:
        return self.ids[row] if row < len(self.ids) else f"test image {row + 1}"

    def _decoded(self, row: int) -> np.ndarray | None:
        try:
            return None if self.load is None else np.asarray(self.load(row))
        except DataError:
            return None
