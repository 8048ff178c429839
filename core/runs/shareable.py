"""What of a run is handed on: its run.json without names of samples, of files, of this machine and of who used it."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..contracts.recipe import SAMPLE
from ..contracts.run_info import RunInfo
from ..errors import CapabilityError
from .redaction import LEFT_OUT, NO_NAME, Redaction

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
    kept = {key: value for key, value in Redaction(()).info(info).items() if key not in DROPPED}
    kept["recipe"] |= {"out": None, "descriptions": None, "generic": None, "resume": False}
    kept["recipe"]["resources"] = {name: shared_spec(str(value)) for name, value in resources.items()}
    kept["recipe"]["classes"] = _classes(info.recipe.get("classes"))
    place = SAMPLE if of_sample else LEFT_OUT
    kept["recipe"]["data"] = {**kept["recipe"]["data"], "path": place}
    kept["data"] |= {"path": place, "name": data.name if of_sample or data.named else NO_NAME}
    kept["skipped"] = []
    own = str(info.backbone.spec)
    told = cleaned(kept, lambda text: shared_spec(own) if text == own else privacy.text(text))
    if info.backbone:
        told["recipe"]["backbone"] = shared_spec(own)
    return RunInfo.from_json({**told, "published": {"counts": counts}})


def cleaned(value: Any, text: Callable[[str], str]) -> Any:
    """A nest of plain values whose texts are cleaned, but for words that the model is made of."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {key: inner if key in VERBATIM else cleaned(inner, text) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(inner, text) for inner in value]
    return value


def shared_spec(spec: str) -> str:
    """A backbone's spec; of files and folders of this machine their last names, marked as not published."""
    if spec.startswith(UNPUBLISHED) or not _is_local(spec):
        return spec
    family = next((f for f in ("open_clip:", "hf:") if spec.startswith(f)), "")
    parts = [part.rstrip("/\\") for part in spec.removeprefix(family).split("@")]
    return UNPUBLISHED + "@".join(re.split(r"[/\\]", part)[-1] for part in parts)


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
        if found := privacy.told_in(text):
            return f"{name} holds '{found}'"
    return None


def _is_local(spec: str) -> bool:
    rest = spec.removeprefix("open_clip:").removeprefix("hf:")
    slashes = 0 if rest == spec else 2 if "hf-hub:" in rest else 1
    if rest.partition("@")[0].count("/") > slashes:  # deeper than any name of a model
        return True
    for part in rest.split("@"):
        if part.startswith(("/", ".", "~", "\\")) or re.match(r"[A-Za-z]:[/\\]", part) or Path(part).exists():
            return True
        if part.endswith((".json", ".safetensors", ".pt", ".bin")) and not part.startswith("hf-hub:"):
            return True
    return False


def _classes(classes: Any) -> Any:
    """What `--classes` said, unless it names a file."""
    return None if str(classes).lower().endswith((".txt", ".json")) else classes


def _user() -> str:
    """The user's name, where it is one that a text can be searched for."""
    with suppress(Exception):  # a container may have a user without a name
        name = getpass.getuser()
        return name if len(name) > 2 and name.lower() not in ANYBODY else ""
    return ""


def dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
