"""The domain of ordinary photos: folders, tables, and the sets that few-shot research reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...core.contracts import Domain, DomainData, NumberReading, option
from ...core.data import IMAGE, Format
from ...core.errors import ConfigError
from .known_sets import KnownSet, known_set, recognised

TEMPLATES = ("a photo of a {}.",)
NEGATIVE = ("a photo without a {}.",)
REGRESSION = "regression"


@dataclass(frozen=True, kw_only=True)
class NaturalReading(NumberReading):
    """Options of `Natural.read`, given as `data.NAME` in a recipe."""

    train_list: str | None = option(
        None, "JSON lines of path and label: the images to learn from, as published", metavar="FILE"
    )
    val_list: str | None = option(
        None, "JSON lines of path and label: the images on which settings are chosen", metavar="FILE"
    )


@dataclass(eq=False)
class Natural(Domain):
    """Photos of anything, classified.

    A published set is recognised by the name of its folder and its number of classes: its prompts are taken, and the
    settings that methods publish for it.

    Args:
        known: the set whose prompts are taken.
    """

    name = "natural"
    tasks = ("classification", REGRESSION)
    reading = NaturalReading
    # `views` as each method has them: of groceries and clothes, on `embedded`, caches gain up to 3 points by them

    known: KnownSet | None = None

    def read(self, path: str | Path, task: str | None = None, **options: Any) -> DomainData:
        """A labelled set of whatever kind lies at `path`.

        Class folders, tables (csv, tsv, jsonl), CoOp's `split_zhou_*.json`, COCO and VOC boxes; the eleven sets of
        few-shot research and ImageNet's variants as CoOp or torchvision lay them out (`layouts.py`); folders of Hugging
        Face `datasets` (`arrow_folder.py`).

        For regression, a table with a number per image.

        Args:
            path: file or folder.
            task: "classification" or "regression".
            options: fields of `NaturalReading`.

        Raises:
            DataError: nothing there that can be read.
            UnknownNameError: no option of that name.
            ConfigError: a value that is not usable, or an option that does not apply.
            CapabilityError: files that need a package that is not installed.
        """
        from ...core.data import read_numbers, with_lists

        task = self.check_task(task)
        reading, path = self.reading_of(options), Path(path)
        reading.check_column(task)
        if task == REGRESSION:
            _refuse_lists(reading)
            return read_numbers(path, (replace(IMAGE, max_pixels=reading.max_pixels),), reading)
        data = _read(path, reading)
        known = recognised([data.name, *_names_of(path)], len(data.class_names))
        data = replace(data, published=None if known is None else known.name, domain=replace(self, known=known))
        return with_lists(data, {"train": reading.train_list, "val": reading.val_list})

    def sample(self, task: str | None = None) -> DomainData:
        """480 pictures of 10 everyday things, or 240 of a number of things, drawn on demand; no download."""
        from .drawn_counts import drawn_counts
        from .drawn_things import drawn_things

        return drawn_counts() if self.check_task(task) == REGRESSION else drawn_things()

    def templates(self, task: str | None = None) -> list[str]:
        """Those of the published set, else "a photo of a {}."."""
        return list(TEMPLATES if self.known is None else self.known.templates)

    def one_template(self, task: str | None = None) -> str | None:
        return None if self.known is None else self.known.one

    def negative_templates(self, task: str | None = None) -> list[str]:
        return list(NEGATIVE)

    def use_preset(self, name: str) -> str | None:
        """The prompts of a set in any usual spelling ("Flowers102", "oxford-flowers"), or "none"."""
        self.known = None if name == self.NO_PRESET else known_set(name)
        return None if self.known is None else self.known.name


def _read(path: Path, reading: NaturalReading) -> DomainData:
    from ...core.data import read_any
    from .arrow_folder import is_arrow_folder, read_arrow_folder
    from .imagenet import IMAGENET_LAYOUTS, with_spoken_names
    from .layouts import LAYOUTS, read_set_layout, set_layout

    formats: tuple[Format, ...] = (replace(IMAGE, max_pixels=reading.max_pixels),)
    listed = any(path.glob("split_zhou_*.json")) if path.is_dir() else True
    if not listed and (found := set_layout(path, (*LAYOUTS, *IMAGENET_LAYOUTS))) is not None:
        _refuse(reading, (), f"the layout of {found[0].set}", path)
        return read_set_layout(*found, formats)
    if not listed and is_arrow_folder(path):
        _refuse(reading, ("label_column", "class_names"), "Arrow and Parquet files", path)
        return read_arrow_folder(path, reading.label_column, reading.class_names, reading.max_pixels)
    return with_spoken_names(read_any(path, formats, **reading.of_any()))


def _refuse_lists(reading: NaturalReading) -> None:
    """Raise the ConfigError of lists of labelled images, of which regression has no use."""
    for name in ("train_list", "val_list"):
        if getattr(reading, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: does not apply to regression; give a column split instead")


def _refuse(reading: NaturalReading, taken: Sequence[str], kind: str, path: Path) -> None:
    """Raise the ConfigError of an option of tables that is given for data without one."""
    refused = reading.of_any().keys() - {*taken, "max_pixels"}
    for field in fields(reading):
        if field.name in refused and getattr(reading, field.name) != field.default:
            raise ConfigError(f"option '{field.name}' does not apply to {kind} ({path}); omit it")


def _names_of(path: Path) -> list[str]:
    """Names that may be a set's: of the folder, and of the one above where it only holds images."""
    place = path.resolve()
    place = place if place.is_dir() else place.parent
    return [path.stem, place.name, place.parent.name] if place.name.lower() == "images" else [path.stem, place.name]
