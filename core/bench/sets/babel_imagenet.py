"""Babel-ImageNet: names of ImageNet's classes in 298 languages, each with the classes that it has a name for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...contracts.bench import BenchScore, BenchTowers
from ...contracts.items import DomainData, Item
from ...contracts.options import option
from ...data.files import visible
from ...errors import DataError, shortened
from ...runtime.reading import read_json
from ..languages import LanguageSet, names_in_note
from ..questions import image_data
from ..scoring import classification_scores

FILES = ("babel_imagenet-298.json", "babel_imagenet.json")
"""Of the names, the one that is published results are of first."""
PLACES = ("val", "imagenet/val", "images", "ILSVRC2012_img_val")
"""Folders beside the file in which the images are looked for."""
ENDINGS = (".jpeg", ".jpg", ".png", ".webp")
IMAGENET = 1000
ENGLISH, LABEL = "EN", "label"
SHAPE = "write {language: [[class indices], [names]]}"
VALIDATION = "give ImageNet's 1,000 class folders of validation images: --set babel-imagenet.images=DIR"


@dataclass(eq=False, kw_only=True)
class BabelImageNet(LanguageSet):
    """Babel-ImageNet: Massively Multilingual Evaluation of Vision-and-Language Representations (Geigle et al., 2023,
    arXiv 2306.08658), from its own `babel_imagenet-298.json` and ImageNet's validation images.

    Of each language only the images of the classes that it names are scored, against these names alone: languages
    differ in their classes. A class is the mean of the unit features of its filled prompts, made unit again. Of classes
    with one name the first is the answer, as published. English has CLIP's names of all classes, where open_clip is
    installed.

    `prompts` is "label", the bare name, or a JSON file {language: [prompts with {}]}, for English CLIP's 80. A language
    without prompts is left out and named.
    """

    images: str | None = option(None, "folder of ImageNet's validation images, in class folders", metavar="DIR")
    prompts: str = option(
        LABEL, "label, the bare name, or a file of prompts such as nllb_dist13b_prompts.json", metavar="label|FILE"
    )
    images_per_class: int = option(50, "of each class, the first by name", low=1, high=100_000)

    named: dict[str, tuple[list[int], list[str]]] = field(default_factory=dict, init=False, repr=False)
    asked: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)
    data: DomainData | None = field(default=None, init=False, repr=False)
    class_of: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64), init=False, repr=False)

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return place.name in FILES if place.is_file() else any((place / name).is_file() for name in FILES)

    @property
    def title(self) -> str:
        return "Babel-ImageNet"

    @property
    def published_as(self) -> str:
        return f"babel-imagenet {Path(self.prompts).stem}"

    @property
    def size(self) -> int:
        return 0 if self.data is None else len(self.data.items)

    def check(self, towers: BenchTowers) -> None:
        if self.data is not None:
            return
        assert self.folder is not None
        beside = self.folder.parent if self.folder.is_file() else self.folder
        file = self.folder if self.folder.is_file() else next(f for name in FILES if (f := beside / name).is_file())
        folders = _class_folders(self._images(beside), file)
        named = {code: _names(entry, f"{file}: '{shortened(code)}'") for code, entry in _mapping(file, SHAPE).items()}
        named = {code: named[code] for code in self.chosen(list(named), str.upper)}
        if ENGLISH in named and len(folders) == IMAGENET and (names := _names_of_clip()) is not None:
            named[ENGLISH] = list(range(IMAGENET)), names
        for code, (indices, _) in named.items():
            if max(indices, default=-1) >= len(folders):
                raise DataError(
                    f"{file}: '{code}' names class {max(indices)}, and there are {len(folders)} class folders; "
                    f"{VALIDATION}"
                )
        self.asked = self._prompts(beside, list(named))
        self.named = {code: named[code] for code in self.asked}
        self._notes += self._notes_on_names()
        indices = sorted({index for indices, _ in self.named.values() for index in indices})
        items, of_class = [], []
        for index in indices:
            images = sorted(e.name for e in visible(folders[index]) if Path(e.name).suffix.lower() in ENDINGS)
            if not images:
                raise DataError(f"{folders[index]}: no images; {VALIDATION}")
            for name in images[: self.images_per_class]:
                place = folders[index] / name
                items.append(Item(f"{folders[index].name}/{name}", place, split="test"))
                of_class.append(index)
        self.data, self.class_of = image_data(items, self.title), torch.tensor(of_class)

    def scores_of_languages(self, towers: BenchTowers) -> Mapping[str, list[tuple[BenchScore, Tensor]]]:
        assert self.data is not None
        images, rows = towers.images(self.data)
        class_of, scores = self.class_of[rows], {}
        for code, (indices, names) in self.named.items():
            prompts = [[prompt.replace("{}", name) for prompt in self.asked[code]] for name in names]
            place = torch.full((int(self.class_of.max()) + 1,), -1)  # of all classes that some language names
            place[indices] = torch.arange(len(indices))
            mine = place[class_of] >= 0
            if not bool(mine.any()):
                continue
            of_image = mine.nonzero().flatten()
            classes = towers.class_vectors(prompts)
            scored = classification_scores(images[of_image], classes, place[class_of[of_image]], part=code)[:1]
            scores[code] = [(score, of_image) for score in scored]
        return scores

    def published_values(self, entry: Mapping[str, Any], language: str) -> Mapping[str, float]:
        same = entry.get("prompt", LABEL) == Path(self.prompts).stem and language in self.named
        if not same or entry.get("num_classes") != len(self.named[language][0]):
            return {}
        return {"acc1": entry.get("accuracy", -1)}

    def _images(self, beside: Path) -> Path:
        if self.images is not None:
            return Path(self.images)
        there = next((folder for name in PLACES if (folder := beside / name).is_dir()), None)
        if there is None:
            raise DataError(f"{beside}: none of {', '.join(PLACES)} is there; {VALIDATION}")
        return there

    def _prompts(self, beside: Path, codes: list[str]) -> dict[str, list[str]]:
        """Language -> prompts, of the languages that have some."""
        if self.prompts == LABEL:
            return {code: ["{}"] for code in codes}
        file = Path(self.prompts) if Path(self.prompts).is_file() else beside / self.prompts
        prompts = _mapping(file, "write {language: [prompts with {}]}")
        for code, texts in prompts.items():
            if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and "{}" in t for t in texts):
                raise DataError(f"{file}: '{shortened(code)}' has no list of prompts with {{}}; correct it")
        if ENGLISH in codes and ENGLISH not in prompts and (english := _prompts_of_clip()) is not None:
            prompts[ENGLISH] = english
        if without := [code for code in codes if code not in prompts]:
            self._notes.append(
                f"Languages without prompts in {file.name}, left out: {len(without)} ({names_in_note(without)}); a "
                "mean over fewer languages is another number."
            )
        return {code: prompts[code] for code in codes if code in prompts}

    def _notes_on_names(self) -> list[str]:
        """Of names that are missing, and of classes that share one; the former are taken away."""
        notes, empty, shared = [], {}, {}
        for code, (indices, names) in self.named.items():
            usable = [(index, name) for index, name in zip(indices, names) if name]
            empty[code] = len(names) - len(usable)
            self.named[code] = [index for index, _ in usable], [name for _, name in usable]
            shared[code] = sum(count - 1 for count in Counter(name for _, name in usable).values())
        for counts, what in (
            (empty, "Classes without a name, left out with their images"),
            (shared, "Classes that share the name of an earlier one, and so are never the answer"),
        ):
            some = [f"{code} {count}" for code, count in counts.items() if count]
            if some:
                notes.append(f"{what}: {sum(counts.values()):,} in {len(some)} languages ({names_in_note(some)}).")
        return notes


def _mapping(file: Path, shape: str) -> dict[str, Any]:
    content = read_json(file, shape)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{file}: holds no object by language; {shape}")
    return content


def _names(entry: Any, place: str) -> tuple[list[int], list[str]]:
    """Class indices and names of a language, without blanks at their ends."""
    usable = isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, list) for part in entry)
    indices, names = entry if usable else ([], [])
    numbers = all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in indices)
    texts = all(name is None or isinstance(name, str) for name in names)
    if not usable or not numbers or not texts or len(indices) != len(names) or len(set(indices)) < len(indices):
        raise DataError(f"{place} has no class indices with as many names; {SHAPE}")
    return list(indices), [" ".join((name or "").split()) for name in names]


def _class_folders(root: Path, file: Path) -> list[Path]:
    """Class folders in the order of ImageNet's indices."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {VALIDATION}")
    folders = sorted(Path(entry.path) for entry in visible(root) if entry.is_dir())
    ids = [folder for folder in folders if folder.name[:1] == "n" and folder.name[1:].isdigit()]
    if not folders or (len(ids) == len(folders) and len(ids) != IMAGENET):
        raise DataError(f"{root}: has {len(folders)} class folders; {VALIDATION}")
    return folders


def _names_of_clip() -> list[str] | None:
    """CLIP's names of ImageNet's classes; None where open_clip is not installed."""
    try:
        from open_clip import IMAGENET_CLASSNAMES
    except ImportError:
        return None
    return list(IMAGENET_CLASSNAMES)


def _prompts_of_clip() -> list[str] | None:
    """CLIP's 80 prompts; None where open_clip is not installed."""
    try:
        from open_clip import OPENAI_IMAGENET_TEMPLATES
    except ImportError:
        return None
    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
