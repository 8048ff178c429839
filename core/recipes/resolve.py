"""What to run: a recipe's defaults, a recipe file, `--set key=value` and named flags, merged in that order."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine import Config

from ..contracts.errors import ConfigError, UnknownNameError
from ..registry import catalogue, load_domain
from ..registry.catalogue import did_you_mean, find
from .packaged import recipe_file

DEFAULTS: dict[str, Any] = {
    "domain": None,
    "task": None,
    "data": {"path": "sample"},
    "features": None,
    "adapter": {"name": "tip-adapter"},
    "adapters": {},
    "shots": None,
    "seed": 1,
    "split_seed": 0,
    "backbone": "embedded",
    "image_size": None,
    "device": "auto",
    "amp": None,
    "batch_size": None,
    "workers": None,
    "templates": None,
    "descriptions": None,
    "plan": {},
    "resources": {},
    "classes": None,
    "novel": False,
    "generic": None,
    "out": None,
    "resume": False,
}
"""Every key a recipe may have. `data` also holds the domain's reading options, `adapter` the adapter's own, `adapters`
those of each by name, for a comparison: `adapters.lora.epochs`; `resources` what some adapters need besides images;
`plan` an mmengine config of a task that its domain owns. `shots` becomes `SHOTS` where an adapter is fitted."""

SHOTS = 16
PLAN_SIGN = "model"
"""What an mmengine config has and a recipe has not."""
PLAN_GROUP = "vladapt"
"""Of such a file the group that holds keys of a recipe."""
OF_PLANS = ("described", "test_pipeline", "notes", "least_steps")
"""What a plan has in that group besides."""

TRAINED = ("batch_size", "amp", "workers")
"""Keys that say how images are encoded, and, for adapters that train towers, how these are trained."""

SHORT_FORMS = {"adapter": "name", "data": "path"}
"""Groups that may be given as one word: `adapter="ape"` means `adapter.name="ape"`."""

CLASS_FILES = (".txt", ".json")
AMP_MODES = (None, "bf16", "fp16")
LEAST = {"shots": 1, "seed": 0, "split_seed": 0, "batch_size": 1, "workers": 0, "image_size": 1}
FLAGS = ("shots", "seed", "batch_size", "workers", "novel", "resume", "generic")
FLAGS += ("domain", "task", "features", "backbone", "device", "out")


def resolve(
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    sets: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The recipe that runs.

    Args:
        recipe: name of a packaged recipe ("medical/chest-xray", or "chest-xray" where only one domain has it).
        config: a recipe file of the user's (.py, .json, .yaml), or an mmengine config; it wins over `recipe`.
        sets: "key=value" overrides; dotted keys reach inside ("adapter.alpha=2").
        flags: named command-line flags; None values are left out. Dotted keys as in `sets`.

    Raises:
        ConfigError: a file that cannot be read, or a value out of range.
        UnknownNameError: a recipe or a key that does not exist.
    """
    merged = Config(_copy(DEFAULTS))
    sources = [(recipe_file(recipe), recipe)] if recipe else []
    sources += [(Path(config), str(config))] if config else []
    for path, source in sources:
        _prepare_bases(source, flags or {})
        _merge(merged, _read(path), source)
    if (flags or {}).get("features") and (flags or {}).get("data.path"):
        raise ConfigError("--data and --features: give one of them")
    given = dict(_parse_set(text) for text in sets)
    given.update({key: value for key, value in (flags or {}).items() if value is not None})
    for key, value in sorted(given.items(), key=_names_first):
        _put(merged, key, value)
    _check(merged)
    if not _owned_whole(merged):
        _check_for_adapters(merged, given)
        merged.shots = SHOTS if merged.shots is None else merged.shots
    merged.resources = {name: _lasting(value) for name, value in merged.resources.items()}
    merged.classes = _lasting_file(merged.classes)
    return merged


def adapter_options(recipe: Config) -> dict[str, Any]:
    """The options the recipe gives its adapter. One that trains towers takes the batch size, precision and workers of
    the recipe, unless it has its own."""
    given = {key: value for key, value in recipe.adapter.to_dict().items() if key != "name"}
    given = {**recipe.adapters.to_dict().get(recipe.adapter.name, {}), **given}
    if trains_towers(recipe):
        given = {**{key: recipe[key] for key in TRAINED if recipe[key] is not None}, **given}
    return given


def check_named(recipe: Config, names: Iterable[str]) -> None:
    """Refuse options of adapters that are not fitted.

    Raises:
        ConfigError: `adapters` names another one.
    """
    for name in recipe.adapters:
        if name not in names:
            raise ConfigError(f"--set adapters.{name}: {name} is not fitted here; leave it out, or name the adapter")


def encoding_batch_size(recipe: Config) -> int | None:
    """Images at once through the towers where nothing is trained; None measures it.

    Where towers are trained, `batch_size` counts the images of a training step.
    """
    return None if trains_towers(recipe) else recipe.batch_size


def trains_towers(recipe: Config) -> bool:
    """Whether the recipe's adapter trains on images themselves."""
    from ..registry import adapter_class

    return "pixels" in adapter_class(recipe.adapter.name).needs


def data_options(recipe: Config) -> dict[str, Any]:
    """The options the recipe gives the domain's reader."""
    return {key: value for key, value in recipe.data.to_dict().items() if key != "path"}


def as_data(recipe: Config) -> dict[str, Any]:
    """The recipe as plain JSON-able data, for run.json."""
    return recipe.to_dict()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"--config {path}: no such file; give a recipe file (.py, .json or .yaml)")
    try:
        return Config.fromfile(str(path)).to_dict()
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"--config {path}: cannot be read as a recipe ({first_line})") from error


def _prepare_bases(source: str, flags: Mapping[str, Any]) -> None:
    """A domain may bring packages of configs that a file builds on (`_base_ = "package::..."`): it is loaded first."""
    for name in (flags.get("domain"), source.partition("/")[0]):
        if name in catalogue.domains():
            load_domain(name)


def _owned_whole(recipe: Config) -> bool:
    """Whether the recipe's task is trained by its domain and not by an adapter."""
    if recipe.plan or recipe.domain not in catalogue.domains():
        return bool(recipe.plan)
    domain = load_domain(recipe.domain)
    return domain.owns(recipe.task or domain.tasks[0])


def _merge(into: Config, given: dict[str, Any], source: str) -> None:
    if PLAN_SIGN in given:
        own = given.get(PLAN_GROUP) or {}
        _merge(into, {key: value for key, value in own.items() if key not in OF_PLANS}, f"{source}: {PLAN_GROUP}")
        into.plan = given
        return
    for key, value in given.items():
        if key not in DEFAULTS:
            raise UnknownNameError(f"{source}: a recipe has no key '{key}'; {did_you_mean(key, DEFAULTS)}")
        _put(into, key, value)


def _put(into: Config, key: str, value: Any) -> None:
    head, _, rest = key.partition(".")
    if head not in DEFAULTS:
        raise UnknownNameError(f"--set {key}: a recipe has no key '{head}'; {did_you_mean(head, DEFAULTS)}")
    if rest and not isinstance(DEFAULTS[head], dict):
        raise ConfigError(f"--set {key}: '{head}' holds one value, not a group; write --set {head}=...")
    if not rest and head in SHORT_FORMS and isinstance(value, str):
        key = f"{head}.{SHORT_FORMS[head]}"
    if key == "adapter.name" and value != into.adapter.name:
        into.adapter = {"name": value}
        return
    if isinstance(value, Mapping):
        for inner, inner_value in sorted(value.items(), key=lambda pair: pair[0] != "name"):
            _put(into, f"{key}.{inner}", inner_value)
        return
    into.merge_from_dict({key: value})


def _names_first(pair: tuple[str, Any]) -> tuple[int, bool]:
    """Groups before what is inside them, and an adapter's name before its options, which a new name takes away."""
    return pair[0].count("."), pair[0] != "adapter.name"


def _parse_set(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write key=value, for instance --set adapter.alpha=2")
    return key.strip(), parse_value(value.strip())


def parse_value(text: str) -> Any:
    """A Python literal where it is one (2, 1e-3, (7, 3), None, True), else the text itself."""
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check(recipe: Config) -> None:
    if recipe.amp not in AMP_MODES:
        raise ConfigError(f"--amp {recipe.amp}: there are bf16 and fp16 (none: full precision)")
    for key, least in LEAST.items():
        value = recipe[key]
        optional = DEFAULTS[key] is None
        if not (optional and value is None) and (type(value) is not int or value < least):
            raise ConfigError(f"{_option(key)} {value}: give a whole number, {least} or more")
    if not isinstance(recipe.resume, bool):
        raise ConfigError(f"--resume {recipe.resume}: give True or False")
    if not isinstance(recipe.novel, (bool, str)):
        raise ConfigError(f"--novel {recipe.novel}: give True, False, or names of classes")
    for key in ("domain", "task", "features", "backbone", "device", "descriptions", "generic", "out"):
        if recipe[key] is not None and not isinstance(recipe[key], (str, Path)):
            raise ConfigError(f"{_option(key)} {recipe[key]}: give a name or a path")
    for name, value in recipe.resources.items():
        listed = value if isinstance(value, (list, tuple)) else [value]
        if not listed or not all(isinstance(part, (str, Path)) and str(part) for part in listed):
            raise ConfigError(f"--resource {name}={value}: give a path, or backbones comma-separated")
    if not isinstance(recipe.data.get("path"), (str, Path)):
        raise ConfigError(f"--data {recipe.data.get('path')}: give a path, or 'sample'")
    _check_templates(recipe.templates)
    for name in (recipe.adapter.name, *recipe.adapters):
        find(name, catalogue.adapters(), "adapter")
    for name, options in recipe.adapters.items():
        if not isinstance(options, Mapping):
            raise ConfigError(f"--set adapters.{name}={options}: write --set adapters.{name}.OPTION=value")


def _check_for_adapters(recipe: Config, given: Mapping[str, Any]) -> None:
    """What only a domain that trains its task itself takes."""
    if "shots" in given and given["shots"] is None:
        raise ConfigError("--shots None: give a whole number, 1 or more")
    if isinstance(recipe.novel, str):
        raise ConfigError(
            f"--novel {recipe.novel}: give True or False; names are for detection and segmentation "
            "(--domain open-vocab)"
        )


def _check_templates(templates: Any) -> None:
    if templates is None:
        return
    if not isinstance(templates, (str, list, tuple)):
        raise ConfigError(f"--set templates={templates}: give a text with {{}} for the class name, or a list of them")
    from ..prompts.templates import check_templates

    check_templates(templates)


def _option(key: str) -> str:
    """How a user writes a key: as a flag where there is one."""
    return f"--{key.replace('_', '-')}" if key in FLAGS else f"--set {key}"


def _lasting(value: Any) -> Any:
    """Names of files as they are said from any folder; names of backbones as they are."""
    if isinstance(value, (list, tuple)):
        return [_lasting(part) for part in value]
    parts = [part.strip() for part in str(value).split(",")]
    return ",".join(str(Path(part).absolute()) if Path(part).exists() else part for part in parts)


def _lasting_file(classes: Any) -> Any:
    """A file of class names as it is said from any folder; names as they are."""
    named = isinstance(classes, (str, Path)) and Path(classes).suffix.lower() in CLASS_FILES
    return str(Path(classes).absolute()) if named and Path(classes).is_file() else classes


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value
