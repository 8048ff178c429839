"""What a run, which may come from anybody, can have built: registered types by name, and no file that holds code.

mmengine builds whatever a config names: any importable object by its dotted name, a config file or a pickle that some
part of mmdet or mmseg reads by an option. A config of the user's own may do all of that. What is read from a run folder
may not: `check_parts` refuses it by its names, and `registered_only` takes the search for dotted names away from
mmengine while it builds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import Config
from mmengine.registry import DATASETS, MODELS, TASK_UTILS, TRANSFORMS, Registry

from ...contracts.families import FAMILIES
from ...errors import DataError
from ...registry.catalogue import PACKAGE

SCOPES = ("mmengine", "mmdet", "mmseg", "mmpretrain", "vladapt")
"""Whose registries may be asked."""
OF_MODELS, OF_PIPELINES, OF_DATA = (MODELS, TASK_UTILS), (TRANSFORMS,), (DATASETS, TRANSFORMS)
"""Where names in a model, in transforms and in data sets are looked up."""
OPERATORS = frozenset(
    {"nms", "soft_nms", "RoIAlign", "RoIPool", "DeformRoIPool", "ModulatedDeformRoIPool", "PrRoIPool", "SimpleRoIAlign"}
)
"""Of mmcv, which models name by `type` too, though no registry has them."""
READERS = frozenset(
    {"Detectron2Wrapper", "VPD", "CameraMotionCompensation", "AppearanceFreeLink", "Albu", "InstaBoost", "Corrupt"}
    | {"InferencerLoader", "LoadProposals", "LoadBiomedicalImageFromFile", "LoadBiomedicalAnnotation"}
    | {"LoadBiomedicalData", "LoadSingleRSImageFromFile", "LoadMultipleRSImageFromFile", "LoadDepthAnnotation"}
    | {"LoadMultiChannelImageFromFiles", "LoadTextAnnotations", "RandomSamplingNegPos"}
    | {"DSDLDetDataset", "DSDLSegDataset", "RefCocoDataset", "OpenImagesDataset", "OpenImagesChallengeDataset"}
)
"""Registered, but they evaluate an option as Python, call a library by its names, or read pickles and files."""
WEIGHTS = re.compile(r"init_cfg|pretrained.*|load_from|resume_from|.*checkpoint.*|.*_ckpt|ckpt.*")
"""Options by which weights come from elsewhere. A run has all of them itself, so they are left out of what it keeps."""
SOURCES = frozenset(
    {"custom_imports", "_base_", "_delete_", "backend_args", "file_client_args", "proposal_file"}
    | {"trust_remote_code", "work_dir", "out_dir"}
)
"""Options by which code and files come from elsewhere."""
IMAGE_SOURCES = frozenset({"backend_args", "file_client_args"})
"""Those of them that a run leaves out: images are read as everywhere here."""
TEACHER = "teacher_config"
"""The config of a teacher, which mmdet takes as a file too."""
LOCAL = {"backend": "local"}
REFERENCES = "references"
"""A file that ReCo writes where it is not there."""
TEXTS = frozenset(
    {"classes", "templates", "concepts", "described", "background_words", "context", "novel", "notes", "remember"}
)
"""Options whose words are any that a user may write."""
FILES_WITH_CODE = re.compile(r"(?i)\.(pkl|pickle|pth|pt|npy|npz|bin|ckpt|joblib|py|pyc|pyd|so|dll|ya?ml|zip|tar)$")
CLASS_FILES = (".txt", ".json")
DEEPEST = 50
LARGEST = 10**6
"""Of a whole number: layers, outputs and boxes are counted by them."""
PICKLES = ("pkl", "pickle", "yaml", "yml")
"""Kinds of files that mmengine reads as code; YAML by a loader that builds any object."""
SHOWN = 60


def check_parts(value: Any, where: str, registries: Sequence[Registry], *, registered: bool = True) -> None:
    """Refuse parts of a run that would be built of anything but registered types.

    Args:
        value: of JSON; a dict with `type` stands for what is built.
        where: the file and the key of the value, for the message.
        registries: where types are looked up.
        registered: False leaves names that nothing has to whoever builds them.

    Raises:
        DataError: a type that no registry has, one that reads other files, a dotted name, a scope that is none of
            `SCOPES`, an option of `WEIGHTS` or `SOURCES`, or a text that names a file with code or a URL.
    """
    _Check(registries, registered).parts(value, where, 0)


def check_scope(scope: Any, where: str) -> None:
    """Refuse a `default_scope` that is none of `SCOPES`: mmengine would import a package of that name."""
    if scope not in SCOPES:
        raise DataError(f"{where} is {shown_value(scope)}; a run may name {', '.join(SCOPES)}; fit again")


@contextmanager
def registered_only() -> Iterator[None]:
    """A context in which mmengine builds what its registries hold, imports nothing by a dotted name, and in which
    neither it nor numpy opens a pickle."""
    from mmengine.fileio.handlers import registry_utils
    from mmengine.registry import registry

    find, load, handlers = registry.get_object_from_string, np.load, registry_utils.file_handlers
    taken = {kind: handlers.pop(kind) for kind in PICKLES if kind in handlers}
    registry.get_object_from_string = lambda name: None
    np.load = lambda *args, **options: load(*args, **{**options, "allow_pickle": False})
    try:
        yield
    finally:
        registry.get_object_from_string, np.load = find, load
        handlers.update(taken)


def registered_name(name: str, registries: Iterable[Registry]) -> str | None:
    """The name that a registry has for a dotted name of Python's, as configs in Python's own syntax have them.

    Returns:
        `name` where it is registered as it is or nothing importable; None where it is importable and not registered.
    """
    from mmengine.utils import get_object_from_string

    registries = list(registries)
    if "." not in name or is_registered(name, registries) or (thing := get_object_from_string(name)) is None:
        return name
    for registry in _imported(registries, SCOPES):
        for registered, held in registry.module_dict.items():
            if held is thing:
                return f"{registry.scope}.{registered}"
    bare = name.rpartition(".")[2]
    return bare if bare in OPERATORS else None


def names_weights(key: str, value: Any) -> bool:
    """Whether an option says where weights come from; `use_checkpoint=True` and the like save memory."""
    return bool(value and WEIGHTS.fullmatch(key)) and not ("checkpoint" in key and isinstance(value, (bool, int)))


def without_sources(value: Any) -> Any:
    """A copy of a user's config without the options by which weights, images and configs come from elsewhere."""
    if isinstance(value, Mapping):
        sources = {key for key, inner in value.items() if key in IMAGE_SOURCES or names_weights(key, inner)}
        without = {key: inner for key, inner in value.items() if key not in sources}
        if isinstance(without.get(TEACHER), str):
            without[TEACHER] = {"model": Config.fromfile(without[TEACHER]).model.to_dict()}
        return {key: without_sources(inner) for key, inner in without.items()}
    return type(value)(map(without_sources, value)) if isinstance(value, (list, tuple)) else value


def is_registered(name: str, registries: Iterable[Registry]) -> bool:
    """Whether a registry of `SCOPES` holds a type, by its name or as SCOPE.NAME."""
    scope, _, bare = name.rpartition(".")
    if scope and scope not in SCOPES:
        return False
    scopes = (scope,) if scope else SCOPES
    there = (each for root in registries for each in _there(root) if each.scope in scopes)
    return any(bare in each.module_dict for each in there) or any(
        bare in each.module_dict for each in _imported(registries, scopes)
    )


def shown_value(value: Any) -> str:
    """A value in a message, shortened."""
    text = value if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return f"'{text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}'"


def _there(root: Registry) -> list[Registry]:
    return [root, *root.children.values()]


def _imported(registries: Iterable[Registry], scopes: Sequence[str]) -> Iterator[Registry]:
    """The registries of these scopes with what their packages bring; of one that does not import, what is there."""
    for scope in scopes:
        with suppress(ImportError):
            import_module(f"{PACKAGE}.registry" if scope == "vladapt" else f"{scope}.registry")
    for each in [each for root in registries for each in _there(root) if each.scope in scopes]:
        with suppress(ImportError):
            each.import_from_location()
        yield each


class _Check:
    """One walk through a value.

    Args:
        registries, registered: as of `check_parts`.
    """

    def __init__(self, registries: Sequence[Registry], registered: bool):
        self.registries, self.registered = registries, registered

    def parts(self, value: Any, where: str, depth: int) -> None:
        if depth > DEEPEST:
            raise DataError(f"{where[:200]}: nested more than {DEEPEST} deep; fit again")
        if isinstance(value, Mapping):
            for key, inner in value.items():
                self._option(str(key), inner, f"{where}.{str(key)[:SHOWN]}", depth)
        elif isinstance(value, (list, tuple)):
            for place, inner in enumerate(value):
                self.parts(inner, f"{where}[{place}]", depth + 1)
        elif isinstance(value, str):
            _check_text(value, where)
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise DataError(f"{where} is {shown_value(hex(value))}, not a usable number; fit again")

    def _option(self, key: str, value: Any, where: str, depth: int) -> None:
        if key == "type":
            self._type(value, where)
        elif key == "_scope_":
            check_scope(value, where)
        elif key in SOURCES and value and value != LOCAL:
            raise DataError(f"{where}: a run may not say where code or files come from; remove it, or fit again")
        elif key == TEACHER and isinstance(value, str):
            raise DataError(f"{where} is {shown_value(value)}; a run must not name a config file; fit again")
        elif names_weights(key, value):
            raise DataError(f"{where}: a run has its weights only in adapter.safetensors; remove it, or fit again")
        elif key == REFERENCES and value and not Path(str(value)).is_file():
            raise DataError(
                f"{where} is {shown_value(value)}, which does not exist, and a run creates no files; fit again"
            )
        elif key in TEXTS:
            _check_words(value, where, depth)
        else:
            self.parts(value, where, depth + 1)

    def _type(self, name: Any, where: str) -> None:
        if name is None:
            return
        if not isinstance(name, str):
            raise DataError(f"{where} is {shown_value(name)}, not the name of a type; fit again")
        if name.rpartition(".")[2] in READERS:
            raise DataError(
                f"{where} is {shown_value(name)}, which reads files or code of its own, so a run may not name it; "
                "remove it, or fit again"
            )
        if name in OPERATORS or is_registered(name, self.registries):
            return
        if self.registered or ("." in name and name.partition(".")[0] not in SCOPES):
            raise DataError(
                f"{where} is {shown_value(name)}, which no registry of {', '.join(SCOPES)} has, and a run is built "
                "only from these; import the package that registers it, or fit again"
            )


def _check_words(value: Any, where: str, depth: int) -> None:
    """Words, lists of words, and what is said of each, of which nothing is built; no file of them."""
    if isinstance(value, str) and value.lower().endswith(CLASS_FILES):
        raise DataError(f"{where} is {shown_value(value)}; a run holds its words itself, not a file of them; fit again")
    if depth > DEEPEST:
        raise DataError(f"{where[:200]}: nested more than {DEEPEST} deep; fit again")
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for each in inner:
        if not isinstance(each, str):
            _check_words(each, where, depth + 1)


def _check_text(text: str, where: str) -> None:
    family, colon, _ = text.partition(":")
    if colon and family in FAMILIES:
        return  # a backbone, whose weights `load_backbone` reads
    if "://" in text or "{{" in text or FILES_WITH_CODE.search(text.strip()):
        raise DataError(
            f"{where} is {shown_value(text)}; a run may name no URL and no file that can hold code; fit again"
        )
