"""From pictures of people to a file of sentences: JSON lines of image, identity, captions and what they are made of.

A page shows some of the pictures beside their sentences: one HTML file that needs nothing beside it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ....core.backbones import load_backbone
from ....core.contracts import Backbone, Decoded, DomainData, Item
from ....core.data import IMAGE, check_tolerated, images_of
from ....core.errors import CapabilityError, ConfigError, DataError
from ....core.features import FeatureStore
from ....core.registry import load_domain
from ....core.runs import page_template
from ....core.runtime import Reporter, file_stem, json_text, write_whole
from ..pedestrian import Pedestrian
from .combine import Captioning, described_person, sentences
from .conquer import AttributeBelief, kept_answers, without_mixed_up
from .divide import QuestionTexts
from .faces import are_faces, face_sentences
from .lists import description_of
from .questions import AttributeQuestion, contradictions, questions_with, usual_questions

AT_ONCE = 2048
PERSON, ATTRIBUTES = "person", "attributes"
SIDE = 220
"""Of pictures of the page, in pixels."""


@dataclass
class _Captioned:
    """What was written.

    Attributes:
        out: the file.
        pictures, sentences: how many have captions, and how many captions there are.
        silent: pictures of which nothing was certain enough to be mentioned. root: the folder that names of pictures
        are relative to. attributes: attribute -> how many pictures say it. html: the page, or None. skipped: (picture,
        reason) of what could not be read.
    """

    out: Path
    root: Path
    pictures: int = 0
    sentences: int = 0
    silent: int = 0
    attributes: dict[str, int] = field(default_factory=dict)
    html: Path | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ComposedCaption:
    """One picture with what is said of it."""

    item: Item
    texts: list[str]
    attributes: dict[str, str]
    confidence: dict[str, float]


def caption_people(
    paths: Sequence[str | Path],
    out: str | Path,
    how: Captioning,
    *,
    backbone: str = "embedded",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> _Captioned:
    """Write sentences about pictures of people.

    Args:
        paths: image files and folders, or ["sample"]; may be empty where `how.attributes` is a list that names them.
        out: a .jsonl file.
        how: its `attributes` are a JSON of further questions (`questions.py`), or a list of known attributes of the
            pictures (CelebA's, a .mat, a table), from which all sentences are then made; no tower is asked.

    Raises:
        ConfigError: an option is not usable. DataError: nothing can be read, or nothing sure enough to be said.
    """
    out, reporter = Path(out), reporter or Reporter(quiet=True)
    if out.suffix.lower() != ".jsonl":
        raise ConfigError(f"--out {out}: give a .jsonl file, for instance captions.jsonl")
    attributes = None if how.attributes is None else Path(how.attributes)
    if attributes is not None and attributes.suffix.lower() != ".json":
        data, captions = _from_list(paths, attributes, how)
    else:
        if not paths:
            raise ConfigError(
                "give pictures of people (files, folders or sample), or a list of their attributes by --attributes"
            )
        questions = usual_questions() if attributes is None else questions_with(attributes)
        data = _pictures(paths)
        tower = load_backbone(backbone, device)
        how_encoded = {"batch_size": batch_size, "workers": workers}
        captions = _from_pictures(data, tower, questions, how, how_encoded, reporter)
    made = _written(captions, data, out, how)
    if how.html is not None:
        said = [each for each in captions if each.texts]
        shown = min(how.shown, len(said))
        made.html = Path(how.html)
        _write_page(made.html, [said[place * len(said) // shown] for place in range(shown)], data.load, made)
    return made


def _pictures(paths: Sequence[str | Path]) -> DomainData:
    """The pictures, with the identities of sets that say them."""
    domain = load_domain(PERSON)
    if [str(path) for path in paths] == ["sample"]:
        return domain.sample(ATTRIBUTES)
    return images_of(domain, [Path(path) for path in paths], {})


def _from_pictures(
    data: DomainData,
    tower: Backbone,
    questions: Sequence[AttributeQuestion],
    how: Captioning,
    encoded: dict[str, Any],
    reporter: Reporter,
) -> list[ComposedCaption]:
    if not tower.has_text:
        raise CapabilityError(
            f"backbone '{tower.spec}' has no text tower to ask about pictures with; give --backbone one "
            "that has both towers"
        )
    store, transform = FeatureStore(), load_domain(PERSON).transforms(tower, False, ATTRIBUTES)

    def encode(texts: list[str]) -> Tensor:
        return store.text_features(tower, texts).cpu()

    asked, rules, captions = QuestionTexts.of(tower, questions, encode), contradictions(), []
    with reporter.task("Asking pictures") as progress:
        how_encoded = {"at_once": AT_ONCE, "progress": progress, **encoded}
        for extraction in store.some_at_once(data, data.items, tower, transform, **how_encoded):
            data.skipped += extraction.skipped
            check_tolerated(data)
            unit = F.normalize(extraction.features.features.float().cpu(), dim=1)  # (n, D)
            found = asked.probabilities(unit)
            answers = [kept_answers(questions, found, row, how.min_confidence, rules) for row in range(len(unit))]
            answers = without_mixed_up(answers, unit, questions, encode)
            captions += [
                _caption(item, each, questions, how) for item, each in zip(extraction.items, answers, strict=True)
            ]
    return captions


def _caption(
    item: Item, answers: dict[str, AttributeBelief], questions: Sequence[AttributeQuestion], how: Captioning
) -> ComposedCaption:
    description = described_person(answers, questions)
    texts = [] if description.says_nothing else sentences(description, how.sentences, how.seed, _name(item))
    values = {name: answer.value for name, answer in answers.items()}
    return ComposedCaption(item, texts, values, {name: round(answer.confidence, 4) for name, answer in answers.items()})


def _from_list(paths: Sequence[str | Path], file: Path, how: Captioning) -> tuple[DomainData, list[ComposedCaption]]:
    """Sentences from known attributes; a folder of pictures says where they lie."""
    if len(paths) > 1 or (paths and not Path(paths[0]).is_dir()):
        raise ConfigError(f"--attributes {file}: already names the pictures; give at most their folder")
    root = {"root": str(paths[0])} if paths else {}
    data = load_domain(PERSON).read(file, ATTRIBUTES, **root)
    faces, captions = are_faces(data.class_names), []
    for item in data.items:
        values = dict(zip(data.class_names, item.target.attributes, strict=True))
        if faces:
            texts = face_sentences(values, how.sentences, how.seed, _name(item), how.grouping)
        else:
            description = description_of(values)
            texts = [] if description.says_nothing else sentences(description, how.sentences, how.seed, _name(item))
        known = {name: "yes" for name, value in values.items() if value == 1}
        captions.append(ComposedCaption(item, texts, known, dict.fromkeys(known, 1.0)))
    return data, captions


def _written(captions: Sequence[ComposedCaption], data: DomainData, out: Path, how: Captioning) -> _Captioned:
    said = [each for each in captions if each.texts]
    if not said:
        raise DataError(
            f"--out {out}: nothing is known with a confidence of {how.min_confidence:g} of any of the {len(captions)} "
            "pictures; lower --min-confidence, or give a tower that knows people (--backbone)"
        )
    said = [_with_file(each, data, out) for each in said]
    root = _root(said, out)
    made = _Captioned(out, root, len(said), silent=len(captions) - len(said), skipped=list(data.skipped))
    lines = []
    for each in said:
        made.sentences += len(each.texts)
        for name in each.attributes:
            made.attributes[name] = made.attributes.get(name, 0) + 1
        lines.append(json_text(_row(each, root)))
    write_whole(out, "\n".join(lines) + "\n")
    return made


def _with_file(caption: ComposedCaption, data: DomainData, out: Path) -> ComposedCaption:
    """The caption of a picture in a file of its own: what is drawn, or cut out of a larger picture, is written."""
    item = caption.item
    if not item.decode and IMAGE.matches(Path(item.source)):
        return caption
    from PIL import Image

    file = out.absolute().with_name(f"{out.stem}-pictures") / f"{_safe(item.id)}.png"
    buffer, pixels = io.BytesIO(), np.asarray(data.load(item))
    pixels = pixels if pixels.dtype == np.uint8 else (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, buffer.getvalue())
    return replace(caption, item=item.with_(source=file, decode={}))


def _safe(name: str) -> str:
    return file_stem(re.sub(r"[^\w.-]+", "-", name).strip("-."))


def _row(caption: ComposedCaption, root: Path) -> dict[str, Any]:
    item, target = caption.item, caption.item.target
    image = Path(os.path.relpath(Path(item.source).absolute(), root)).as_posix()
    about = target.about() if isinstance(target, Pedestrian) else {}
    row = {"image": image, "identity": image, **about, **({"split": item.split} if item.split else {})}
    return {**row, "captions": caption.texts, "attributes": caption.attributes, "confidence": caption.confidence}


def _root(captions: Sequence[ComposedCaption], out: Path) -> Path:
    """The folder of the file where all pictures lie in it, else the one that they have in common."""
    folders = [Path(each.item.source).absolute().parent for each in captions]
    beside = out.absolute().parent
    if all(folder.is_relative_to(beside) for folder in folders):
        return beside
    return Path(os.path.commonpath(folders))


def _name(item: Item) -> str:
    return Path(item.id).name


def _write_page(
    path: Path, captions: Sequence[ComposedCaption], load: Callable[[Item], Decoded], made: _Captioned
) -> None:
    """Write the page.

    Args:
        path: an .html file.
        captions: those that are shown.
        load: decodes a picture.
        made: the file that the sample is of.

    Raises:
        DataError: the file cannot be written.
    """
    template = page_template(Path(__file__).with_name("page.html.j2"))
    cards = (_card(each, load) for each in captions)  # each picture is held only while it is written
    write_whole(path, template.render(cards=cards, count=len(captions), side=SIDE, made=made))


def _card(caption: ComposedCaption, load: Callable[[Item], Decoded]) -> dict[str, Any]:
    sure = [(name, value, caption.confidence.get(name)) for name, value in caption.attributes.items()]
    try:
        picture, why = load(caption.item), ""
    except DataError as error:
        picture, why = None, str(error)
    return {"picture": picture, "why": why, "texts": caption.texts, "attributes": sure}
