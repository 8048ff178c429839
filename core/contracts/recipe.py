"""What to run, as a typed object that knows which of its keys were given."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError, DataError, UnknownNameError, did_you_mean
from .images import as_image_size
from .options import TOLERATED, Option, as_text, option, options_of, tolerate_option, typed
from .shown import in_short

if TYPE_CHECKING:
    from .backbone import Backbone

SAMPLE = "sample"
RUNS = Path("runs")
"""Where runs are written, unless `--out` names another folder."""
ALL = "all"
AUTO = "auto"
TRAINING = ("epochs", "lr")
"""Options that every training has; they are given by `--epochs` and `--lr`."""
DATA, METHOD, JUDGING, OUTPUT = "Data", "Method", "Judging", "Output"
"""Headings of flags in a command's help."""
FEATURES = "features file (.safetensors, .npz), or folder of shards, instead of images; sample: a packaged one"
DEVICE = "device: auto (the default), cpu, cuda or cuda:1"
REDACT = "leave file names, the path of the data and pictures out of what is written; samples are numbered"
"""Help of options that a run takes again where it is used."""
PROTOCOLS = (
    *("coop", "full-val", "k-val", "fixed", "standard", "relaxed", "realistic"),
    *("cross-dataset", "domain-generalization", "transductive"),
)
"""Names of those of `core/tasks/classification/protocols.py`."""
GROUPS = {"data": "path", "adapter": "name"}
"""Groups that may be given as one word: `adapter="ape"` means `adapter.name="ape"`."""
HOOKS = "custom_hooks"
"""What only a user says: a run does not keep it, since a run folder, which may be anybody's, must not name code."""


def all_of(value: Any) -> Any:
    """None for "all": no limit."""
    return None if isinstance(value, str) and value.strip().lower() == ALL else value


def spec_of(backbone: str | Backbone | None) -> str | None:
    """The spec of what a user gives as a backbone: itself, or that of a module (`Backbone.from_module`).

    Raises:
        ConfigError: a module without its facts, or anything else.
    """
    if backbone is None or isinstance(backbone, str):
        return backbone
    from .backbone import offered

    return offered(backbone)


def check_protocol(name: str | None) -> None:
    """Raise the UnknownNameError of a protocol that there is not."""
    if name is not None and name not in PROTOCOLS:
        raise UnknownNameError(f"--protocol {name}: no such protocol; {did_you_mean(name, PROTOCOLS)}")


def _hooks(value: Any) -> list[dict[str, Any]]:
    """Hooks as mmengine's configs name them; one may stand alone."""
    hooks = [value] if isinstance(value, Mapping) else list(value)
    if not all(isinstance(each, Mapping) and "type" in each for each in hooks):
        raise ValueError(value)
    return [dict(each) for each in hooks]


def _val_shots(value: Any) -> Any:
    return str(value).strip().lower() if isinstance(value, str) else value


@dataclass(kw_only=True)
class Recipe:
    """Every key a recipe may have. A task says which of them it takes, and what it takes besides (`task_options`).

    `given` holds the keys that somebody gave, dotted inside a group ("adapter.alpha"), whatever their value: what was
    left out follows the domain, then the task (`Task.settled`).
    """

    __repr__ = in_short

    domain: str | None = option(
        None,
        "kind of images, such as medical (`vladapt list domains`); by default natural, ordinary photos",
        metavar="NAME",
        group=DATA,
    )
    task: str | None = option(None, "task of the domain; by default its first one", metavar="NAME", group=DATA)
    data: dict[str, Any] = option(
        help="data set: a folder or file; by default `sample`, the domain's own",
        factory=lambda: {"path": SAMPLE},
        metavar="PATH",
        group=DATA,
    )
    sources: dict[str, Any] = option(
        help="all data sets, where there are several, and how they are mixed", factory=dict
    )
    features: str | None = option(None, FEATURES, metavar="FILE", group=DATA)
    adapter: dict[str, Any] = option(
        help="method (`vladapt list adapters`); by default the task's, for classes auto",
        factory=lambda: {"name": None},
        metavar="NAME",
        group=METHOD,
    )
    adapters: dict[str, Any] = option(help="options of several methods, each under its name", factory=dict)
    shots: int | None = option(
        None,
        "labelled images per class, or all; 0 for none. By default 16, all for a config",
        low=0,
        parse=all_of,
        metavar="N|all",
        group=DATA,
    )
    val_shots: int | Literal["all"] | None = option(
        None,
        "validation images per class that settings are chosen on; by default as many as shots, 4 at most, up to 16 "
        "shots, and all beyond",
        low=0,
        parse=_val_shots,
        metavar="N|all|none",
        group=JUDGING,
    )
    refit: bool = option(False, "after choosing settings on val, learn from its images too", group=JUDGING)
    judge: bool = option(True, "without labels, keep zero-shot where the images do not show that a method helps")
    judge_views: int = option(
        0, "number of augmented views of each test image that the judge also uses", low=0, high=64
    )
    seed: int = option(
        1,
        "random seed, of the drawn shots and everything else that is random; by default 1",
        low=0,
        metavar="N",
        group=JUDGING,
    )
    protocol: str | None = option(
        None,
        f"draw, choose and test as papers do: {', '.join(PROTOCOLS)}; methods then keep their published settings",
        metavar="NAME",
        group=JUDGING,
    )
    preset: str = option(
        AUTO,
        "published set (dtd, eurosat, ...) whose prompts and settings are taken; by default the one recognised",
        metavar="NAME|none",
        group=JUDGING,
    )
    split_seed: int = option(0, "seed of the division into train, val and test", low=0)
    backbone: str = option(
        "embedded",
        "pretrained model: embedded (the default), open_clip:<arch>/<tag>, open_clip:<arch>@<file>, hf:<id>, "
        "timm:<name>, torchvision:<name>, FILE.py:NAME (your own code), or a folder or file of a trained one",
        metavar="SPEC",
        group=METHOD,
    )
    image_size: int | tuple[int, int] | None = option(
        None,
        "side of the images in pixels, or HEIGHTxWIDTH, where it differs from the backbone's",
        low=1,
        high=2**14,
        parse=as_image_size,
    )
    device: str = option("auto", DEVICE, metavar="NAME", group=METHOD)
    amp: str | None = option(
        None,
        "mixed precision of the backbone; by default full precision",
        choices=("bf16", "fp16"),
        metavar="bf16|fp16",
        group=METHOD,
    )
    batch_size: int | None = option(
        None,
        "images per batch through the backbone; measured by default. For adapters that train towers: images per "
        "training step, over all processes",
        low=1,
        high=2**20,
        metavar="N",
        group=METHOD,
    )
    workers: int | None = option(
        None,
        "threads that decode images, by default one per core; processes, for adapters that train towers",
        low=0,
        high=4096,
        metavar="N",
        group=DATA,
    )
    tolerate: float = tolerate_option(TOLERATED, group=DATA)
    templates: Any = option(None, "prompts with {} for the class name, in place of the domain's")
    descriptions: str | None = option(None, "file of texts per class")
    language: Any = option(
        None,
        "language of class names and prompts: de, es, fr, ja, zh where the domain has it, or a FILE.json. Of captions "
        "in several languages: which are read",
        metavar="CODE|FILE",
        group=DATA,
    )
    plan: dict[str, Any] = option(help="an mmengine config, for tasks that train one", factory=dict)
    custom_hooks: list[dict[str, Any]] = option(
        help="hooks of mmengine's that a training of towers calls: [{'type': NAME, ...}]", factory=list, parse=_hooks
    )
    resources: dict[str, Any] = option(help="what some methods need besides images, by name", factory=dict)
    classes: Any = option(
        None,
        "which classes: base, new, a,b,c or a text file with one class per line; in open-vocab also a JSON of "
        "descriptions. By default all",
        metavar="NAMES",
        group=DATA,
    )
    novel: bool | str = option(
        False,
        "also test on the classes that --classes leaves out. In open-vocab: names that are tested but not trained, or "
        "coco, lvis (the published splits)",
        metavar="[NAMES]",
        group=DATA,
    )
    generic: str | None = option(
        None,
        "class folders of generic images, to see what trained towers forget; drawings by default",
        metavar="DIR",
        group=JUDGING,
    )
    out: str | None = option(None, "where to write; by default `runs`", metavar="DIR", group=OUTPUT)
    resume: bool = option(
        False,
        "continue the same fit where it was stopped. For adapters that train towers; others keep no checkpoints and "
        "start again",
        group=OUTPUT,
    )
    redact: bool = option(False, REDACT, group=OUTPUT)
    task_options: dict[str, Any] = field(default_factory=dict, metadata={"option": None})
    given: frozenset[str] = field(default=frozenset(), metadata={"option": None})

    def __post_init__(self):
        self.backbone = spec_of(self.backbone) or self.backbone

    @property
    def data_path(self) -> str:
        """Path of the data set, or "sample"."""
        return str(self.data.get("path") or SAMPLE)

    @property
    def reading(self) -> dict[str, Any]:
        """Options of the data's reader."""
        return {key: value for key, value in self.data.items() if key != "path"}

    @property
    def adapter_name(self) -> str | None:
        return self.adapter.get("name")

    @property
    def adapter_options(self) -> dict[str, Any]:
        """Options for the recipe's adapter: those under its name in `adapters`, and its own."""
        beside_name = {key: value for key, value in self.adapter.items() if key != "name"}
        return {**(self.adapters.get(self.adapter_name or "") or {}), **beside_name}

    def gave(self, key: str) -> bool:
        """Whether a key, or something inside a group, was given."""
        return key in self.given or any(each.startswith(f"{key}.") for each in self.given)

    def with_(self, **changes: Any) -> Recipe:
        """A copy with other values; what was given stays as it was."""
        return replace(self, **changes)

    def with_backbone(self, backbone: str | Backbone | None) -> Recipe:
        """A copy on another backbone, which then counts as given; None: as it is."""
        if backbone is None:
            return self
        return self.with_(backbone=spec_of(backbone), given=self.given | {"backbone"})

    def with_adapter(self, name: str) -> Recipe:
        """A copy for another adapter: options of its own are of the adapter that was named with them."""
        return self if name == self.adapter_name else self.with_(adapter={"name": name})

    def with_source(self, *, data: str | None = None, features: str | None = None) -> Recipe:
        """A copy on another data set, alone; its reader keeps its options."""
        if features is not None:
            return self.with_(features=str(features))
        return self.with_(features=None, data={**self.data, "path": str(data)}, sources={})

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for run.json, without hooks; `Recipe.of` reads it."""
        names = [f.name for f in fields(self) if f.name not in ("task_options", "given", HOOKS)]
        plain = {name: deepcopy(getattr(self, name)) for name in names}
        if self.tolerate == TOLERATED:  # runs of earlier versions do not say it
            del plain["tolerate"]
        if not self.sources:
            del plain["sources"]
        if self.language is None:
            del plain["language"]
        of_task = {"task_options": dict(self.task_options)} if self.task_options else {}
        return {**plain, **of_task, "given": sorted(self.given - {HOOKS})}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Recipe:
        """From `to_dict`, each value in its key's type; hooks and keys of other versions are passed over.

        Raises:
            ConfigError: a value that its key does not accept.
        """
        values = {key: value_of(key, deepcopy(value)) for key, value in plain.items() if key in KEYS.keys() - {HOOKS}}
        given, of_task = plain.get("given", ()), plain.get("task_options") or {}
        if not isinstance(of_task, Mapping) or not isinstance(given, (list, tuple)) or not all(map(_is_text, given)):
            raise ConfigError("recipe: task_options is a group, and given a list of keys")
        return cls(**values, task_options=deepcopy(dict(of_task)), given=frozenset(given))


@dataclass(kw_only=True)
class Trained:
    """Options that adapters which train have in common. Each has a flag of its own, and is kept as `adapter.NAME`."""

    loss: list[str] | None = option(
        None,
        "loss, for adapters that let it be chosen. Repeatable",
        metavar="NAME[=WEIGHT]",
        group=METHOD,
    )
    teacher: list[str] | None = option(
        None,
        "frozen teacher of the loss, a backbone, for adapters that train towers; by default the towers before the "
        "training. Repeatable",
        metavar="SPEC",
        group=METHOD,
    )
    epochs: int | None = option(
        None, "epochs, for adapters that train; by default the published number", metavar="N", group=METHOD
    )
    lr: float | None = option(
        None, "learning rate, for adapters that train; by default the published one", metavar="RATE", group=METHOD
    )


KEYS: dict[str, Option] = {each.name: each for each in options_of(Recipe)}
"""Key -> what it takes."""
TRAINED: dict[str, Option] = {each.name: each for each in options_of(Trained)}


def value_of(key: str, value: Any) -> Any:
    """A key's value in its type.

    Raises:
        ConfigError: one line that names the flag, the value, and what would do.
    """
    try:
        return typed(KEYS[key], value)
    except ConfigError:
        text = value if isinstance(value, bool) or value is None else as_text(value)
        raise ConfigError(f"{as_flag(key)} {text}: give {_accepted(key)}") from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def as_flag(key: str) -> str:
    """How a user writes a key: as a flag where there is one, else behind `--set`."""
    head, _, rest = key.partition(".")
    if head == "resources" and rest:
        return f"--resource {rest.replace('_', '-')}"
    if key in ("sources.data", "sources.samples", "sources.stages"):
        return f"--{rest}"
    if rest and GROUPS.get(head) != rest:
        return f"--set {key}"
    if head == "plan":
        return "--config"
    return f"--{head.replace('_', '-')}" if head in KEYS and KEYS[head].bounds.group else f"--set {key}"


def _accepted(key: str) -> str:
    if key in ("domain", "task", "backbone", "device", "preset", "protocol"):
        return "a name"
    if key == HOOKS:
        return "hooks as mmengine's configs name them: [{'type': NAME, ...}]"
    if key in ("features", "descriptions", "generic", "out"):
        return "a path"
    if key == "novel":
        return "yes, no, or names of classes"
    if key == "shots":
        return f"a whole number, 0 or more, or {ALL}"
    if key == "val_shots":
        return f"a whole number, 0 or more, {ALL}, or none"
    return KEYS[key].accepts


def absolute_paths(value: Any) -> Any:
    """Names of files as they hold from any folder; other words as they are."""
    if isinstance(value, (list, tuple)):
        return [absolute_paths(part) for part in value]
    parts = [part.strip() for part in str(value).split(",")]
    return ",".join(str(Path(part).absolute()) if Path(part).exists() else part for part in parts)


def check_data_place(path: str) -> None:
    """Raise DataError where there is no such data set."""
    if path != SAMPLE and not Path(path).exists():
        raise DataError(f"--data {path}: no such file or folder; give the path of a data set, or 'sample'")


def check_out_folder(out: str | Path | None, holds: str = "run") -> None:
    """Refuse a folder that is to hold what a command writes, and cannot.

    Raises:
        ConfigError: a file lies there. DataError: as for `check_writable`.
    """
    if out:
        check_writable(out)
        if Path(out).is_file():
            raise ConfigError(f"--out {out}: a file, not a folder; give the folder that is to hold the {holds}")


def check_writable(place: str | Path, option: str = "--out") -> None:
    """Raise the DataError of a file or folder that can be neither written nor made: its name is too long, the disk is
    read-only, others alone may write there. That a disk is full shows when it is written to."""
    path = Path(os.path.realpath(place))  # where links lead
    try:
        folder = next(each for each in (path, *path.parents) if _is_there(each))
        if folder == path and not path.is_dir():
            folder = path.parent  # a file is replaced
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
            code = errno.EROFS if read_only else errno.EACCES
            raise OSError(code, os.strerror(code))
    except OSError as error:
        raise DataError.unwritable(f"{option} {place}", error, f"give another {option}") from error


def _is_there(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def check_features_place(path: str | Path) -> None:
    """Raise DataError where there is no such file of features; "sample" is packaged."""
    if str(path) != SAMPLE and not Path(path).exists():
        raise DataError(f"{path}: no such file; give a .safetensors or .npz file of features, or a folder of shards")


def holds_features(path: str | Path) -> bool:
    """Whether a file or folder is one of features by its name and its arrays' names, which alone are looked at."""
    path = Path(path)
    if path.is_dir():
        states = [path / "_state", *path.glob("*/_state")]
        return any(state.is_dir() and any(state.parent.glob("part-*.parquet")) for state in states)
    if path.suffix.lower() == ".npz":
        from zipfile import ZipFile, is_zipfile

        if not is_zipfile(path):
            return False
        with ZipFile(path) as file:
            return not {"image_features.npy", "image_parts.npy"}.isdisjoint(file.namelist())
    return path.suffix.lower() == ".safetensors"
