"""What `hf:ID`, `hf:ID@REVISION` or `hf:FOLDER` names: a model of a listed type, as files. Builds no model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....core.backbones import ModelFolder
from ....core.errors import ConfigError, DataError
from ....core.runs import Run
from ....core.runtime import Reporter, read_json
from ....core.tasks import KeptModel
from .family import HEAD, TEXTS, Family, family_class, plain_config
from .tokens import FILES

HUB = "hf:"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
RUN, CONFIG = "run.json", "config.json"
NODES = ("HFDetector", "HFSegmentor", "HFTextDetector", "HFTextSegmentor", "SAMSegmenter", "SAM3")
LOCAL_WAY = "give a folder with the same files: hf:FOLDER"
REPOSITORY, REVISION = re.compile(r"[\w.-]+/[\w.-]+"), re.compile(r"\w[\w./-]*")
UNNAMED = re.compile(r"LABEL_\d+")
MOST_ROWS = 100_000
NOTHING = "N/A"
"""What a row of a head is called that no object of the data set has."""
ALIKE = (
    frozenset({"DetrImageProcessor", "ConditionalDetrImageProcessor", "DeformableDetrImageProcessor"})
    | {"YolosImageProcessor"},
    frozenset({"MaskFormerImageProcessor", "Mask2FormerImageProcessor"}),
)
"""Processors that prepare an image in the same way."""
TEXT_KEYS = frozenset({"image_processor_type", "feature_extractor_type", "processor_class"})


@dataclass(frozen=True)
class HubModel:
    """A model of transformers that lies in a folder, as the hub has it or trained by a run.

    Args:
        place: as it was given, "hf:...".
        folder: with config.json, the preprocessing and the weights.
        repository, revision: of the hub; "" of a folder. The revision is the commit where the hub's cache tells it.
        config: plain data, see `plain_config`.
        processor: of the images, plain data.
        names: of the rows of a closed head; None for rows that stand for nothing.
        licence: that the model card states, or "unknown".
    """

    place: str
    folder: Path
    repository: str
    revision: str
    config: dict[str, Any]
    processor: dict[str, Any]
    names: tuple[str | None, ...]
    licence: str

    @property
    def model_type(self) -> str:
        return self.config["model_type"]

    @property
    def family_class(self) -> type[Family]:
        return family_class(self.model_type, f"{self.folder / 'config.json'}")

    @property
    def is_run(self) -> bool:
        return (self.folder / RUN).is_file()

    @property
    def known_names(self) -> tuple[str, ...]:
        """Without rows that stand for nothing; none of a model that has no head and was not trained here."""
        if self.family_class.asked_by != HEAD and not self.is_run:
            return ()
        return tuple(name for name in self.names if name is not None)

    def facts(self) -> dict[str, str]:
        """What a run says of where it began."""
        return {
            "id": self.repository or self.place.removeprefix(HUB),
            "revision": self.revision,
            "licence": self.licence,
        }


def is_hub_place(place: Any) -> bool:
    """Whether a start is named as of the hub."""
    return str(place).startswith(HUB)


def hub_model(place: str) -> HubModel | None:
    """The model that a place names; None where it names a run of another model, which `vladapt push` wrote.

    Args:
        place: hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:FOLDER, or the folder of a run.

    Raises:
        ConfigError: the name of nothing. DataError: no such folder or repository, no model of a listed type, a
            missing file; not cached, and offline or gated.
    """
    rest = place.removeprefix(HUB)
    if not rest:
        raise ConfigError(f"{place}: names no model; give hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:FOLDER")
    folder, repository, revision = _folder(rest)
    file = folder / (RUN if (folder / RUN).is_file() else CONFIG)
    return _of_folder(place, folder, repository, revision, file.stat().st_mtime_ns if file.is_file() else 0)


@lru_cache(maxsize=8)
def _of_folder(place: str, folder: Path, repository: str, revision: str, changed: int) -> HubModel | None:
    """Read once as long as the file that says what it is has not changed."""
    if (folder / RUN).is_file():
        return _of_run(place, folder)
    stated = ModelFolder(folder).config()
    family = family_class(stated.get("model_type"), str(folder / "config.json"))
    return HubModel(
        place=place,
        folder=folder,
        repository=repository,
        revision=revision,
        config=plain_config(stated),
        processor=_processor(folder, family),
        names=_names(stated, folder / CONFIG),
        licence=ModelFolder(folder).licence,
    )


def _of_run(place: str, folder: Path) -> HubModel | None:
    """The model that a run has trained, where it began as one of transformers."""
    plan = KeptModel(Run.open(folder)).plan()
    if plan is None or not is_hub_node(plan["model"]):
        return None
    began = plan["vladapt"].get("source") or {}
    return HubModel(
        place=place,
        folder=folder,
        repository=began.get("id", ""),
        revision=began.get("revision", ""),
        config=plan["model"]["config"],
        processor=plan["model"]["processor"],
        names=tuple(plan["model"]["classes"]),
        licence=began.get("licence", "unknown"),
    )


def is_hub_node(model: Mapping[str, Any]) -> bool:
    """Whether the node of a model in a plan is one of transformers by its id."""
    return str(model.get("type", "")).rpartition(".")[2] in NODES


def _folder(rest: str) -> tuple[Path, str, str]:
    path = Path(rest).expanduser()
    if path.is_dir():
        return path, "", ""
    repository, at, revision = rest.partition("@")
    named = REPOSITORY.fullmatch(repository) and not repository.startswith(".")
    if not named or (at and not REVISION.fullmatch(revision)):
        problem = "is a file" if path.exists() else "no such folder, and no repository of the hub (OWNER/NAME)"
        raise DataError(f"{rest}: {problem}; {LOCAL_WAY}")
    folder = ModelFolder.of_hub(repository, LOCAL_WAY, revision or None, _tell_once, needs=_needed).path
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision
    return folder, repository, commit


def _needed(folder: Path) -> Sequence[Sequence[str]]:
    """The names of which one each is needed beside a configuration, which is of a listed type.

    Raises:
        DataError: a model that is of no use here, though its weights were not looked at.
    """
    if (folder / RUN).is_file():
        return ()
    stated = ModelFolder(folder).config()
    family = family_class(stated.get("model_type"), str(folder / CONFIG))
    _names(stated, folder / CONFIG)
    if any((folder / name).is_file() for name in PROCESSORS):
        _processor(folder, family)
    return (PROCESSORS, FILES) if family.asked_by == TEXTS else (PROCESSORS,)


@lru_cache(maxsize=64)
def _tell_once(line: str) -> None:
    Reporter().info(line)


def _processor(folder: Path, family: type[Family]) -> dict[str, Any]:
    """The preprocessing of images, with the name of its class."""
    for name in PROCESSORS:
        file = folder / name
        if not file.is_file():
            continue
        stated = read_json(file, "copy or download it again")
        stated = stated.get("image_processor", stated) if isinstance(stated, dict) else None
        if not isinstance(stated, dict):
            raise DataError(f"{file}: not a JSON object; copy or download it again")
        named = str(stated.get("image_processor_type") or stated.get("feature_extractor_type") or "")
        kind = re.sub(r"Fast$|Pil$", "", named).replace("FeatureExtractor", "ImageProcessor")
        kept = {key: value for key, value in plain_config(stated).items() if key not in TEXT_KEYS}
        return {**kept, "kind": _kind(kind, family, file)}
    raise DataError(
        f"{folder}: has no {PROCESSORS[0]}, so nobody knows how its images are prepared; copy or download the whole "
        "repository"
    )


def _kind(stated: str, family: type[Family], file: Path) -> str:
    """The processor that is used for a stated one, "" where none is stated."""
    usual = family.processors[0]
    if stated in family.processors:
        return stated
    if not stated or any({stated, usual} <= group for group in ALIKE):
        return usual
    raise DataError(
        f"{file}: its images are prepared by {stated[:60]}, but a model of this type by {usual}; copy or download the "
        "file again"
    )


def _names(stated: dict[str, Any], file: Path) -> tuple[str | None, ...]:
    labels = stated.get("id2label")
    if not isinstance(labels, dict):
        count = stated.get("num_labels") or 2
        if not isinstance(count, int) or not 0 < count <= MOST_ROWS:
            raise DataError(f"{file}: num_labels is {str(count)[:40]!r}; give a whole number from 1 to {MOST_ROWS}")
        return tuple(f"LABEL_{row}" for row in range(count))
    if wrong := [row for row in labels if not (re.fullmatch(r"[0-9]{1,6}", row) and int(row) <= MOST_ROWS)]:
        raise DataError(
            f"{file}: id2label has the key '{wrong[0][:40]}'; its keys are numbers of rows, from 0 to {MOST_ROWS}"
        )
    rows = {int(row): str(name) for row, name in labels.items()}
    if missing := set(range(len(labels))) - set(rows):
        raise DataError(
            f"{file}: id2label names {len(labels)} rows but not row {min(missing)}; number them from 0 without gaps, "
            f"'{NOTHING}' for rows that stand for nothing"
        )
    listed = [rows[row] for row in range(len(rows))]
    counts, all_unnamed = Counter(listed), all(UNNAMED.fullmatch(name) for name in listed)
    return tuple(
        None if name == NOTHING or counts[name] > 1 or (UNNAMED.fullmatch(name) and not all_unnamed) else name
        for name in listed
    )


def stable_text(value: Any) -> str:
    """Plain data in one line, the same for the same data."""
    return json.dumps(value, sort_keys=True)
