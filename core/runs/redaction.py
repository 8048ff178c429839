"""What a run tells of where it was made and of single images: paths as they were given, and with `--redact` no names.

A run is handed on. The folders of the machine it was made on are left out of it always; names of files, which may be
those of patients, and pictures are left out where the user says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contracts.items import DomainData
from ..contracts.judgement import Evaluated

FILE_NAME = re.compile(
    r"""[^\s'"()\[\],:;]*\.(?:png|jpe?g|jp2|j2k|bmp|gif|webp|tiff?|dcm|dicom|nii(?:\.gz)?|npz|npy|mha|nrrd|svs|mp4|avi|mov|mkv"""
    r"""|csv|tsv|jsonl?|txt|xml|tar|zip|vrt|gpkg|geojson|shp)\b(?:\#\d+)?""",
    re.IGNORECASE,
)
LEFT_OUT, NO_NAME = "[left out]", "redacted data"
SHOWS_IMAGES = frozenset({"pictures", "searches"})
"""Kinds of sections that are pictures of single samples with their names."""


def without_place(value: Any) -> Any:
    """A nest of plain values whose texts name files in the working directory as they are named from there."""
    here = str(Path.cwd())
    if len(here) < 2:
        return value
    return _mapped(value, lambda text: "." if text == here else text.replace(here + os.sep, ""))


def origin_of(folder: Path) -> str | None:
    """The working directory, as it is found from a folder below it; None where the way there would tell its name."""
    way = os.path.relpath(Path.cwd(), folder.absolute())
    return way if set(Path(way).parts) <= {os.pardir} else None


class Redaction:
    """Names of samples replaced by their numbers in the data set, and those of other files left out.

    Args:
        samples: the names that each sample has; they are numbered from 1.
        skipped: (name, reason) of what could not be read.
    """

    def __init__(self, samples: Iterable[Iterable[str | None]], skipped: Iterable[Sequence[str]] = ()):
        self._number: dict[str, str] = {}
        for number, names in enumerate(samples, start=1):
            for name in filter(None, names):
                self._number.setdefault(name, f"sample {number}")
        for number, (name, *_) in enumerate(skipped, start=1):
            self._number.setdefault(str(name), f"unreadable sample {number}")
        self._longest_first = sorted(self._number, key=len, reverse=True)

    @classmethod
    def of(cls, data: DomainData, skipped: Iterable[Sequence[str]] = ()) -> Redaction:
        """Of a data set, its samples in their order."""
        named = ((item.id, str(item.source), item.source.name, item.group) for item in data.items)
        return cls(named, dict.fromkeys(map(tuple, [*data.skipped, *skipped])))

    def name(self, name: str) -> str:
        """What a sample is called."""
        return self._number.get(name) or self.text(name)

    def text(self, text: str) -> str:
        """A text without names of samples and files."""
        if text in self._number:
            return self._number[text]
        for name in self._longest_first:
            if len(name) > 3 and name in text:
                text = text.replace(name, self._number[name])
        return hide(text)

    def info(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json holds."""
        recipe, data = dict(info.get("recipe") or {}), dict(info.get("data") or {})
        recipe["data"] = {**_mapped(recipe.get("data") or {}, hide), "path": LEFT_OUT}
        recipe["features"] = recipe.get("features") and LEFT_OUT
        recipe["generic"] = recipe.get("generic") and LEFT_OUT
        recipe["resources"] = dict.fromkeys(recipe.get("resources") or {}, LEFT_OUT)
        recipe["plan"] = _without_data(recipe.get("plan") or {})
        recipe["task_options"] = _mapped(recipe.get("task_options") or {}, _without_place)
        splits = {split: [self.name(each) for each in ids] for split, ids in (info.get("splits") or {}).items()}
        return {
            **info,
            "recipe": recipe,
            "data": {**data, "name": NO_NAME, "path": LEFT_OUT},
            "splits": splits,
            "fit": _mapped(info.get("fit"), self.text),
            "skipped": self.pairs(info.get("skipped") or ()),
            "notes": [self.text(note) for note in info.get("notes") or ()],
            **({"not_calibrated": self.text(info["not_calibrated"])} if info.get("not_calibrated") else {}),
        }

    def pairs(self, skipped: Iterable[Sequence[str]]) -> list[list[str]]:
        """(name, reason) of what could not be read."""
        return [[self.name(str(name)), self.text(str(reason))] for name, reason in skipped]

    def sections(self, sections: Sequence[Any]) -> list[Any]:
        """Those that show no single samples."""
        return [section for section in sections if getattr(section, "kind", "") not in SHOWS_IMAGES]


def hide(text: str) -> str:
    """A text without names of files."""
    return FILE_NAME.sub(LEFT_OUT, text)


def redacted_result(result: Evaluated) -> Evaluated:
    """What `evaluate` gives, without names of files."""
    redaction = Redaction((), result.skipped)
    notes = None if result.notes is None else list(map(redaction.text, result.notes))
    return replace(result, data=NO_NAME, notes=notes, skipped=redaction.pairs(result.skipped))


def _without_data(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the data sets that it names."""
    return {key: value for key, value in plan.items() if not key.endswith(("_dataloader", "_dataset", "_evaluator"))}


def _without_place(value: str) -> str:
    """An option of a task, unless it says where something lies."""
    return LEFT_OUT if Path(value).exists() else value


def _mapped(value: Any, change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(inner, change) for inner in value]
    return value
