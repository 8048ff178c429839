"""From a packaged recipe, a recipe file, `--set key=value` and named flags, merged in that order, to a `Recipe`.

What is wrong with the names and places that a command line gives is said before torch is imported (`check_recipe`,
`check_recipe_names`, `check_places`, `check_run`). Each is checked again where it is used, by the same function and so
in the same words. The values of an adapter's options are not checked here: its class needs torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..backbones.specs import check_spec
from ..contracts.domain import Domain
from ..contracts.judgement import FIT
from ..contracts.options import TOLERATED, literal, options_of
from ..contracts.recipe import (
    GROUPS,
    HOOKS,
    KEYS,
    RUNS,
    TRAINING,
    Recipe,
    absolute_paths,
    as_flag,
    check_data_place,
    check_features_place,
    check_out_folder,
    check_protocol,
    value_of,
)
from ..contracts.run_info import FittedRun
from ..contracts.task import Task
from ..errors import CapabilityError, ConfigError, DataError, UnknownNameError, alternatives, check_given, did_you_mean
from ..prompts.languages import read_language
from ..registry import catalogue, check_packages, judging_options, load_domain, task_class
from ..registry.catalogue import NameOrigin, find_entry, is_place, literal_in
from ..runs.places import HUB, run_folder
from ..runtime.progress import Reporter
from ..runtime.reading import read_json, read_yaml

PLAN_SIGN = "model"
"""What an mmengine config has and a recipe has not."""
PLAN_GROUP = "vladapt"
"""Of such a file the group that holds keys of a recipe."""
OF_PLANS = ("described", "test_pipeline", "notes", "least_steps")
"""What a plan has in that group besides."""
IMPORTS = "custom_imports"
"""Modules of the user's, with hooks for instance, which mmengine imports as it reads the file."""
CLASS_FILES = (".txt", ".json")
CLASSIFICATION = "classification"
COLUMN = "_column"
"""How keys end that name a column."""
BATCH_SIZE, OF_ADAPTER = "batch_size", "adapter.batch_size"
TEMPLATES = "templates"
SET = "--set"
"""The source of what a command line gives."""


def resolve(
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    sets: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
    domain: Domain | None = None,
) -> Recipe:
    """The recipe that is asked for, each key in its type; what nobody gave has the default of `Recipe`.

    Args:
        recipe: name of a packaged recipe ("medical/chest-xray", or "chest-xray" where only one domain has it).
        config: a recipe file of the user's (.py, .json, .yaml), or an mmengine config; it wins over `recipe`.
        sets: "key=value"; dotted keys reach inside ("adapter.alpha=2").
        flags: named command-line flags; None was not given. Dotted keys as in `sets`.
        domain: the recipe's domain, where it is not installed as a plug-in.

    Raises:
        ConfigError: a file that cannot be read, or a value that its key does not accept.
        UnknownNameError: a recipe or a key that does not exist.
    """
    merged = _Merged(domain)
    sources = [(recipe_file(recipe), recipe)] if recipe else []
    sources += [(Path(config), str(config))] if config else []
    for path, source in sources:
        _prepare_bases(source, flags or {})
        merged.take_file(_read(path), source)
    if (flags or {}).get("features") and (flags or {}).get("data.path"):
        raise ConfigError("--data and --features: give one of them")
    given = dict(parse_set(text) for text in sets)
    for key in given:
        merged.check_plan_key(key)
    given.update({key: value for key, value in (flags or {}).items() if value is not None})
    for key, value in sorted(given.items(), key=_names_first):
        merged.put(key, value, SET)
    return merged.recipe()


def task_of(recipe: Recipe, domain: Domain | None = None) -> Task:
    """The task that a recipe asks for, in its domain.

    Args:
        domain: a domain of the caller's that is not installed as a plug-in; by default the recipe's, by name.

    Raises:
        ConfigError: the domain has no such task. UnknownNameError: no such name.
    """
    if domain is None and (name := recipe.domain or _default_domain(recipe)):
        domain = load_domain(name)
    if domain is not None:
        return task_in(domain, recipe.task)
    return task_class(recipe.task or CLASSIFICATION)(None)


def task_on_images(recipe: Recipe, domain: Domain | None = None) -> Task:
    """As `task_of`, for commands that read images as a domain does.

    Raises:
        ConfigError: the task has no domain, since it reads pairs.
    """
    task = task_of(recipe, domain)
    if task.domain is None and recipe.task:
        raise ConfigError(f"--task {recipe.task}: it is of pairs, and this command reads images; omit --task")
    return task


def _default_domain(recipe: Recipe) -> str | None:
    """Of a recipe that names none; None where none is needed."""
    without = recipe.features or (recipe.task and not task_class(recipe.task).needs_domain)
    return None if without else catalogue.DEFAULT_DOMAIN


def tell_default_domain(recipe: Recipe, task: Task, reporter: Reporter) -> None:
    """Say which domain is taken where a recipe names none."""
    if task.domain is not None and not recipe.domain:
        others = ", ".join(name for name in sorted(catalogue.domains()) if name != task.domain.name)
        reporter.info(f"Domain: {task.domain.name} (ordinary photos). For other images give --domain: {others}")


def task_in(domain: Domain, name: str | None) -> Task:
    """A task of a domain, by default its first one: the domain's own class, else the one of that name."""
    if name and name in catalogue.tasks() and (shared := task_class(name)).data_of:
        shared.check_domain(domain)
        return shared(domain)
    name = domain.check_task(name)
    of_domain = {cls.name: cls for cls in domain.tasks if isinstance(cls, type)}
    return (of_domain.get(name) or task_class(name))(domain)


def task_of_run(run: FittedRun, domain: Domain | None = None) -> Task:
    """The task that made a run, in the run's domain; without one where the run was made from a features file.

    Raises:
        CapabilityError: the domain or the task is not installed here.
    """
    name, task = run.info.domain, run.info.task
    try:
        if domain is None and name is not None and not run.info.recipe.get("features"):
            domain = load_domain(name)
        return task_class(task)(None) if domain is None else task_in(domain, task)
    except UnknownNameError as error:
        what = f"domain '{name}'" if domain is None and name is not None else f"task '{task}'"
        message = f"{run.shown}: made with {what}, which is not installed here; install its package"
        raise CapabilityError(message) from error


def recipe_file(name: str) -> Path:
    """The file of a packaged recipe.

    Raises:
        UnknownNameError: no recipe has that name, or several domains have one.
    """
    known = catalogue.recipes()
    if name in known:
        return known[name]
    short = {full: path for full, path in known.items() if full.split("/", 1)[1] == name}
    if len(short) == 1:
        return next(iter(short.values()))
    if short:
        raise UnknownNameError(f"recipe '{name}' is in several domains; give one of {', '.join(short)}")
    domain, _, rest = name.partition("/")
    if rest and domain in catalogue.domains():
        outside = load_domain(domain).recipes
        if rest in outside:
            return outside[rest]
        known = {**known, **{f"{domain}/{each}": path for each, path in outside.items()}}
    raise UnknownNameError(f"unknown recipe '{name}'; {did_you_mean(name, known)}")


def parse_set(text: str, example: str = "adapter.alpha=2") -> tuple[str, Any]:
    """ "key=value" -> (key, value as the Python literal it is, else as text); the name of a column is always a text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write key=value, for instance --set {example}")
    key, value = key.strip(), value.strip()
    return key, value if key.endswith(COLUMN) else literal(value)


def check_recipe(recipe: Recipe) -> None:
    """Refuse what a fit refuses: names that nothing has, data that are not there, packages that are missing.

    A package that an adapter does without under some of its options is looked for where these are read.

    Raises:
        UnknownNameError, ConfigError, DataError, CapabilityError: as a fit does.
    """
    name = recipe.adapter_name
    check_recipe_names(recipe, () if name is None else (name,))
    check_places(recipe)
    if name is not None and not is_place(name) and not recipe.adapter_options:
        _check_packages_of("adapter", name, catalogue.adapters())


def _check_packages_of(kind: str, name: str, entries: dict[str, NameOrigin]) -> None:
    """Refuse a method or a task of which a package is missing, without importing it."""
    check_packages(f"{kind} '{name}'", literal_in(find_entry(name, entries, kind), "packages") or {})


def check_places(recipe: Recipe) -> None:
    """Refuse data that are not there, an `--out` that is a file, and a domain whose packages are missing.

    Tasks that need no domain find their data themselves.

    Raises:
        DataError, ConfigError, CapabilityError: as a fit does.
    """
    check_out_folder(recipe.out or RUNS)
    if recipe.features:
        check_features_place(recipe.features)
    elif not recipe.task or recipe.domain:
        check_data_place(recipe.data_path)
    if recipe.domain:
        load_domain(recipe.domain)  # where its packages are missing


def check_recipe_names(recipe: Recipe, adapters: Iterable[str], backbones: Iterable[str] = ()) -> None:
    """Refuse names that nothing has, and a task or a backbone of which a package is missing.

    Args:
        backbones: that are compared in place of the recipe's.

    Raises:
        UnknownNameError, ConfigError, CapabilityError: as a fit does.
    """
    if recipe.domain:
        find_entry(recipe.domain, catalogue.domains(), "domain")
        if recipe.task:
            load_domain(recipe.domain).check_task(recipe.task)
    if recipe.task:
        _check_packages_of("task", recipe.task, catalogue.tasks())
    for name in adapters:
        if not is_place(name):
            find_entry(name, catalogue.adapters(), "adapter")
    check_protocol(recipe.protocol)
    _check_language(recipe)
    of_recipe = recipe.backbone.split(",") if recipe.gave("backbone") and not recipe.features else ()
    for spec in (*of_recipe, *backbones):
        check_spec(spec.strip())


def _check_language(recipe: Recipe) -> None:
    """Refuse a language that the recipe's domain does not have, and a file that is none of a language."""
    name = recipe.domain or (None if recipe.task or recipe.features else catalogue.DEFAULT_DOMAIN)
    if recipe.language is not None and name is not None:
        domain = load_domain(name)
        if isinstance(recipe.language, str):
            read_language(recipe.language, domain.languages, domain.name)


def check_run(place: str | Path, out: str | None = None) -> None:
    """Raise the DataError of a folder that holds no run, or the ConfigError of a file in place of the folder for its
    evaluation; what the hub holds is looked up when it is used."""
    check_out_folder(out, "evaluation")
    if not str(place).startswith(HUB):
        run_folder(Path(place))


def _in_batches(recipe: Recipe) -> Recipe:
    """The recipe with the batch size that was given after that of its adapter, which then is the adapter's.

    Raises:
        ConfigError: it would only say how images are encoded.
    """
    from .asked_for import fits_towers

    if fits_towers(recipe):
        return recipe.with_(adapter={**recipe.adapter, BATCH_SIZE: recipe.batch_size})
    size, own = recipe.batch_size, recipe.adapter_options[BATCH_SIZE]
    raise ConfigError(
        f"--batch-size {size}: the recipe's {recipe.adapter_name} learns in batches of {own} from stored features; "
        f"give --set {OF_ADAPTER}={size}"
    )


class _Merged:
    """Values by key, and which keys were given."""

    def __init__(self, domain: Domain | None = None):
        self.domain = domain
        omitted = {HOOKS: [], "sources": {}, "tolerate": TOLERATED, "language": None}
        self.values: dict[str, Any] = {**Recipe().to_dict(), **omitted}
        self.given: set[str] = set()
        self.task_options: dict[str, tuple[Any, str]] = {}
        self._sources: dict[str, str] = {}
        """Of the two batch sizes and the templates, who gave them last."""
        del self.values["given"]

    def take_file(self, content: Mapping[str, Any], source: str) -> None:
        """Keys of a recipe; of an mmengine config those of its group `vladapt`, and the whole as the plan."""
        if PLAN_SIGN in content:
            keys = content.get(PLAN_GROUP) or {}
            of_recipe = {key: value for key, value in keys.items() if key not in OF_PLANS}
            self.take_file(of_recipe, f"{source}: {PLAN_GROUP}")
            self.values["plan"] = dict(content)
            self.given.add("plan")
            return
        for key, value in content.items():
            if key != IMPORTS:
                self.put(key, value, source)

    def put(self, key: str, value: Any, source: str) -> None:
        head, _, rest = key.partition(".")
        if head not in KEYS:
            self.task_options[key] = (value, source)  # of the task, if it has such an option
            return
        if not rest and isinstance(value, str):
            check_given(as_flag(key), value)
        group = isinstance(self.values[head], dict)
        if rest and not group:
            raise ConfigError(f"--set {key}: '{head}' holds one value, not a group; write --set {head}=...")
        if group and not rest and not isinstance(value, Mapping):
            if head not in GROUPS:
                raise ConfigError(f"--set {key}={value}: a group; write --set {key}.NAME=value")
            key = f"{head}.{GROUPS[head]}"
        if key == "adapter.name":
            self._name_adapter(value)
        elif isinstance(value, Mapping) and group:
            for inner, inner_value in sorted(value.items(), key=lambda pair: pair[0] != "name"):
                self.put(f"{key}.{inner}", inner_value, source)
        else:
            _store(self.values, key, value if group else value_of(key, value))
            self.given.add(key)
            if key == TEMPLATES:
                self._sources[key] = source
            if key == BATCH_SIZE and self._sources.get(OF_ADAPTER, source) != source:
                self._sources[BATCH_SIZE] = source
            if key == OF_ADAPTER:
                self._sources = {OF_ADAPTER: source}

    def recipe(self) -> Recipe:
        """The recipe.

        Raises:
            UnknownNameError: a key that neither a recipe nor the task has.
        """
        values = self.values
        values["resources"] = {name: _resource(name, value) for name, value in values["resources"].items()}
        values["classes"] = _absolute_file(values["classes"])
        if values["language"] is not None and self._sources.get(TEMPLATES, SET) != SET:
            values["templates"] = None  # those of a packaged recipe are English
            self.given.discard(TEMPLATES)
        _check_groups(values)
        made = Recipe(**values, given=frozenset(self.given))
        if BATCH_SIZE in self._sources and made.adapter_options.get(BATCH_SIZE) is not None:
            made = _in_batches(made)
        made = self._with_task_options(made) if self.task_options else made
        return made if made.language is None else self._in_language(made)

    def _in_language(self, recipe: Recipe) -> Recipe:
        """The recipe whose reader takes captions of the language, where its task learns from captions."""
        if "language" not in _reading_names(recipe, self.domain):
            return recipe
        if "language" in task_of(recipe, self.domain).taken(recipe):
            return recipe
        data, given = {**recipe.data, "language": recipe.language}, recipe.given - {"language"} | {"data.language"}
        return recipe.with_(language=None, data=data, given=given)

    def check_plan_key(self, key: str) -> None:
        """A plan takes any key, also a slip, which would train as if it had not been given.

        Raises:
            UnknownNameError: neither the plan nor mmengine has such a key.
        """
        (head, _, rest), plan = key.partition("."), self.values["plan"]
        top = rest.partition(".")[0]
        if head == "plan" and plan and top and top not in plan and top not in _keys_of_plans():
            cure = f"{did_you_mean(top, plan)} (epochs and learning rate are given by --epochs and --lr)"
            raise UnknownNameError(f"--set {key}: the plan has no '{top}'; {cure}")

    def _name_adapter(self, name: Any) -> None:
        """Options of one adapter are not for another."""
        if name != self.values["adapter"]["name"]:
            self.values["adapter"] = {"name": name}
            self.given = {key for key in self.given if not key.startswith("adapter.")}
        self.given.add("adapter.name")

    def _with_task_options(self, recipe: Recipe) -> Recipe:
        """Keys that are no recipe's: options of its task, or else of the domain's reader, which are in `data`."""
        options, of_reader = _option_names(recipe, self.domain), {}
        for key, (value, source) in self.task_options.items():
            if key in options:
                continue
            if key not in _reading_names(recipe, self.domain):
                near = did_you_mean(key.partition(".")[0], [*KEYS, *options])
                near = f"give --{key}" if key in TRAINING else near
                place = f"--set {key}" if source == "--set" else source
                if key not in TRAINING:
                    own = task_of(recipe, self.domain)
                    if others := _tasks_with(key, recipe, own.domain):
                        raise UnknownNameError(
                            f"{place}: '{key}' is an option of {', '.join(others)}, not of {own.name}; omit it"
                        )
                    if domains := [name for name in catalogue.domains() if _tasks_with(key, recipe, load_domain(name))]:
                        near = f"it is an option of --domain {alternatives(domains)}"
                raise UnknownNameError(f"{place}: a recipe has no key '{key.partition('.')[0]}'; {near}")
            of_reader[key] = value
        of_task = {key: value for key, (value, _) in self.task_options.items() if key not in of_reader}
        given = recipe.given | {f"data.{key}" for key in of_reader}
        return recipe.with_(task_options=of_task, data={**recipe.data, **of_reader}, given=given)


def _option_names(recipe: Recipe, domain: Domain | None) -> list[str]:
    """Names of the options of the recipe's task and its judgements."""
    task = task_of(recipe, domain)
    own = [] if task.options is None else [each.name for each in options_of(task.options)]
    return [*own, *judging_options(task, FIT)]


def _tasks_with(key: str, recipe: Recipe, domain: Domain | None) -> list[str]:
    """Names of the tasks of a domain that have such an option."""
    names = () if domain is None else domain.task_names
    return [name for name in names if key in _option_names(recipe.with_(task=name), domain)]


def _reading_names(recipe: Recipe, domain: Domain | None) -> list[str]:
    """Names of the options of the domain's reader; of that of pairs where no domain reads."""
    name = recipe.domain or _default_domain(recipe)
    domain = load_domain(name) if domain is None and name else domain
    return [] if domain is None else [each.name for each in options_of(domain.reading)]


def _keys_of_plans() -> set[str]:
    """What mmengine makes a training of."""
    from mmengine.runner import Runner

    return {*inspect.signature(Runner.__init__).parameters, PLAN_GROUP}


def _store(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = values[part] = {}
        values = inner
    values[last] = deepcopy(value)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"--config {path}: no such file; give a recipe file (.py, .json or .yaml)")
    from mmengine import Config

    try:
        if path.suffix.lower() == ".json":
            read_json(path)
        elif path.suffix.lower() in (".yaml", ".yml"):
            read_yaml(path)
        return Config.fromfile(str(path)).to_dict()
    except DataError as error:
        raise ConfigError(f"--config {error}") from error
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"--config {path}: cannot be read as a recipe ({first_line})") from error


def _prepare_bases(source: str, flags: Mapping[str, Any]) -> None:
    """A domain may bring packages of configs that a file builds on (`_base_ = "package::..."`): it is loaded first."""
    for name in (flags.get("domain"), source.partition("/")[0]):
        if name in catalogue.domains():
            load_domain(name)


def _names_first(pair: tuple[str, Any]) -> tuple[int, bool]:
    """Groups before what is inside them, and an adapter's name before its options, which a new name takes away."""
    return pair[0].count("."), pair[0] != "adapter.name"


def _check_groups(values: Mapping[str, Any]) -> None:
    path, name = values["data"].get("path"), values["adapter"].get("name")
    if not isinstance(path, (str, Path)) or not str(path):
        raise ConfigError(f"--data {path}: give a path, or 'sample'")
    for each in ([] if name is None or is_place(name) else [name]) + list(values["adapters"]):
        find_entry(str(each), catalogue.adapters(), "adapter")
    for each, options in values["adapters"].items():
        if not isinstance(options, Mapping):
            raise ConfigError(f"--set adapters.{each}={options}: write --set adapters.{each}.OPTION=value")
    if values["templates"] is not None:
        _check_templates(values["templates"])


def _check_templates(templates: Any) -> None:
    if not isinstance(templates, (str, list, tuple)):
        raise ConfigError(f"--set templates={templates}: give a text with {{}} for the class name, or a list of them")
    from ..prompts.classifier import check_templates

    check_templates(templates)


def _resource(name: str, value: Any) -> Any:
    listed = value if isinstance(value, (list, tuple)) else [value]
    if not listed or not all(isinstance(part, (str, Path)) and str(part) for part in listed):
        raise ConfigError(f"--resource {name}={value}: give a path, or backbones comma-separated")
    return absolute_paths(value)


def _absolute_file(classes: Any) -> Any:
    """A file of class names as it is said from any folder; names as they are."""
    named = isinstance(classes, (str, Path)) and Path(classes).suffix.lower() in CLASS_FILES
    return str(Path(classes).absolute()) if named and Path(classes).is_file() else classes
