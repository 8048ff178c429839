"""What of a run is handed on: with `--redact` no names of samples and files, and published none of who used it either.

Names of files may be those of patients. The folders of the machine that a run was made on are left out of it always
(`core/runs/places.py`).
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones.specs import bare
from ..contracts.families import FAMILIES
from ..contracts.items import DomainData
from ..contracts.judgement import Evaluated
from ..contracts.recipe import SAMPLE
from ..contracts.run_info import RunInfo, mapped_texts
from ..errors import CapabilityError

if TYPE_CHECKING:
    from typing_extensions import Self

FILE_NAME = re.compile(
    r"""[^\s'"()\[\],:;]*\.(?:png|jpe?g|jp2|j2k|bmp|gif|webp|tiff?|dcm|dicom|nii(?:\.gz)?|npz|npy|mha|nrrd|svs|mp4|avi|mov|mkv"""
    r"""|csv|tsv|jsonl?|txt|xml|tar|zip|vrt|gpkg|geojson|shp)\b(?:\#\d+)?""",
    re.IGNORECASE,
)
LEFT_OUT, NO_NAME = "[left out]", "redacted data"
SHOWS_IMAGES = frozenset({"pictures", "searches"})
"""Kinds of sections that are pictures of single samples with their names."""
DROPPED = ("splits", "digests", "origin", "base", "model", "encoded_images", "stored_images", "published", "metrics")
"""Parts of run.json that say which images there were, or where something lies."""
VERBATIM = frozenset({"class_names", "templates"})
"""Words that the model itself is made of."""
TOWERS = ("keys", "further_backbones")
"""Resources that name backbones."""
ANYBODY = frozenset({"root", "user", "users", "home", "admin", "ubuntu", "work", "data", "test", "runner", "default"})
"""Names of users that tell nothing of a person, and are words."""
PATH = re.compile(r"(?<![\w./\\])(?:~|[A-Za-z]:)?[/\\][\w.][^\s'\"<>|,;:@()\[\]]*")
"""An absolute path, or one below somebody's home."""
UNPUBLISHED = "unpublished:"
"""Before the name of a backbone that is a file or folder of the one who pushed."""


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
    def of(cls, data: DomainData, skipped: Iterable[Sequence[str]] = ()) -> Self:
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

    def info(self, info: RunInfo) -> RunInfo:
        """What run.json holds."""
        recipe = dict(info.recipe)
        recipe["data"] = {**mapped_texts(recipe.get("data") or {}, hide), "path": LEFT_OUT}
        recipe["features"] = recipe.get("features") and LEFT_OUT
        recipe["generic"] = recipe.get("generic") and LEFT_OUT
        recipe["resources"] = dict.fromkeys(recipe.get("resources") or {}, LEFT_OUT)
        recipe["plan"] = _without_data(recipe.get("plan") or {})
        recipe["task_options"] = mapped_texts(recipe.get("task_options") or {}, _without_place)
        return info.with_(
            recipe=recipe,
            data={**info.data, "name": NO_NAME, "path": LEFT_OUT},
            splits={split: [self.name(each) for each in ids] for split, ids in info.splits.items()},
            fit=mapped_texts(info.get("fit"), self.text),
            skipped=self.pairs(info.skipped),
            notes=[self.text(note) for note in info.notes],
            **({"not_calibrated": self.text(info.not_calibrated)} if info.not_calibrated else {}),
        )

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


class Privacy:
    """Texts without what a run must not tell: names of its samples, paths, the user's own name.

    Args:
        info: what run.json holds.
    """

    def __init__(self, info: RunInfo):
        ids = [str(i) for split in info.splits.values() for i in split if isinstance(split, list)]
        skipped = [str(pair[0]) for pair in info.skipped if pair]
        self.names = [*dict.fromkeys([*ids, *skipped])]
        words = "\n".join(map(str, info.class_names))
        self._telling = [n for n in self.names if len(n) > 3 and re.search(r"[^\W\d]", n) and n not in words]
        self._redaction = Redaction([name, Path(name).name] for name in self.names)
        self._places = sorted({str(Path.home()), str(Path.cwd())} - {os.sep}, key=len, reverse=True)
        user = _user()
        self._user = re.compile(rf"(?<!\w){re.escape(user)}(?!\w)") if user else None

    def text(self, text: str) -> str:
        """A text with these left out."""
        for place in self._places:
            text = text.replace(place, LEFT_OUT)
        text = PATH.sub(LEFT_OUT, text)
        text = self._redaction.text(text)
        return text if self._user is None else self._user.sub(LEFT_OUT, text)

    def told_in(self, text: str) -> str | None:
        """The first thing in a text that should not be there; None where there is none."""
        names = [name for name in self._telling if name in text]
        places = [place for place in self._places if place in text]
        return next(iter([*names, *places]), None)


def shareable(info: RunInfo) -> RunInfo:
    """run.json as it is published: what loading needs, and what the card says."""
    privacy = Privacy(info)
    counts = {name: len(ids) for name, ids in info.splits.items()} or info.published.get("counts") or {}
    data, of_sample = info.data, info.data.path == SAMPLE
    resources = {name: value for name, value in (info.recipe.get("resources") or {}).items() if name in TOWERS}
    facts = {key: value for key, value in Redaction(()).info(info).items() if key not in DROPPED}
    facts["recipe"] |= {"out": None, "descriptions": None, "generic": None, "resume": False}
    facts["recipe"]["resources"] = {name: shared_spec(str(value)) for name, value in resources.items()}
    facts["recipe"]["classes"] = _classes(info.recipe.get("classes"))
    place = SAMPLE if of_sample else LEFT_OUT
    facts["recipe"]["data"] = {**facts["recipe"]["data"], "path": place}
    facts["data"] |= {"path": place, "name": data.name if of_sample or data.named else NO_NAME}
    facts["skipped"] = []
    own = info.backbone.spec
    shared = redacted_values(facts, lambda text: shared_spec(own) if text == own else privacy.text(text))
    if info.backbone:
        shared["recipe"]["backbone"] = shared_spec(own)
    return RunInfo.from_json({**shared, "published": {"counts": counts}})


def redacted_values(value: Any, text: Callable[[str], str]) -> Any:
    """A nest of plain values whose texts are cleaned, but for words that the model is made of."""
    return mapped_texts(value, text, VERBATIM)


def shared_spec(spec: str) -> str:
    """A backbone's spec; of files and folders of this machine their last names, marked as not published."""
    if spec.startswith(UNPUBLISHED) or not _is_local(spec):
        return spec
    plain = bare(spec)
    parts = [part.rstrip("/\\") for part in plain.removeprefix(_family(plain)).split("@")]
    return UNPUBLISHED + "@".join(re.split(r"[/\\]", part)[-1] for part in parts) + spec.removeprefix(plain)


def check_backbone(info: RunInfo, place: str) -> None:
    """Raise the CapabilityError of a run whose backbone was not published with it."""
    backbone = info.backbone
    if backbone.spec.startswith(UNPUBLISHED):
        name = backbone.spec.removeprefix(UNPUBLISHED)
        raise CapabilityError(
            f"{place}: its backbone '{name}' (fingerprint {backbone.fingerprint}) is the author's own and was not "
            "published; give your copy with --backbone"
        )


def leaks(texts: Iterable[tuple[str, str]], info: RunInfo) -> str | None:
    """The first (file, text) that tells what should not be told, in words; None where none does."""
    privacy = Privacy(info)
    for name, text in texts:
        if leak := privacy.told_in(text):
            return f"{name} holds '{leak}'"
    return None


def _is_local(spec: str) -> bool:
    spec = bare(spec)
    rest = spec.removeprefix(_family(spec))
    slashes = 0 if rest == spec else 2 if "hf-hub:" in rest else 1
    if rest.partition("@")[0].count("/") > slashes:  # deeper than any name of a model
        return True
    for part in rest.split("@"):
        if part.startswith(("/", ".", "~", "\\")) or re.match(r"[A-Za-z]:[/\\]", part) or Path(part).exists():
            return True
        if part.endswith((".json", ".safetensors", ".pt", ".pth", ".bin")) and not part.startswith("hf-hub:"):
            return True
    return False


def _family(spec: str) -> str:
    """ "family:" of a spec, "" where it has none."""
    return next((f"{family}:" for family in FAMILIES if spec.startswith(f"{family}:")), "")


def _classes(classes: Any) -> Any:
    """What `--classes` said, unless it names a file."""
    return None if str(classes).lower().endswith((".txt", ".json")) else classes


def _user() -> str:
    """The user's name, where it is one that a text can be searched for."""
    with suppress(Exception):  # a container may have a user without a name
        name = getpass.getuser()
        return name if len(name) > 2 and name.lower() not in ANYBODY else ""
    return ""
