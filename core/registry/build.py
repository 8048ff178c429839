"""From a name to the thing: the one module that carries it is imported, nothing else. Of judgements, which a task only
names, also from a task to all that it makes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..contracts.domain import Domain, Metric
from ..contracts.judgement import FIT, Judgement
from ..contracts.options import ABSENT, chosen, options_of
from ..contracts.output_kind import OutputKind
from ..contracts.task import Task
from ..errors import CapabilityError, ConfigError, DataError, UnknownNameError, VladaptError
from ..runtime.process import need_package
from . import catalogue
from .catalogue import PACKAGE, NameOrigin, find_entry, is_place

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ..contracts.adapter import Adapter
    from ..contracts.backbone import Backbone
    from ..contracts.bench import BenchSet
    from ..contracts.composition import Composition
    from ..contracts.curator import Curator
    from ..contracts.loss import Loss
    from ..contracts.prepared import PreparedData
    from ..contracts.selector import Selector


NOT_TRAINED = {"epochs": "does not train in epochs", "lr": "has no learning rate"}
"""What of an adapter without such an option is said where it is given."""
OPTION_OF_KIND = re.compile(r":(?=[a-z-]+=)")
"""Between a kind of output and its options."""


def adapter_class(name: str) -> type[Adapter]:
    """The class of an adapter; of the place of a published run, a method that is this run.

    Raises:
        UnknownNameError: no adapter has that name. DataError: no run lies there.
    """
    from ..contracts.adapter import Adapter

    if is_place(name):
        cls = _load(catalogue.PUBLISHED_RUN, Adapter).at(name)
        cls.name = name
        return cls
    return _class(name, catalogue.adapters(), Adapter)


def build_adapter(name: str, **options: Any) -> Adapter:
    """A new adapter with the given options.

    Raises:
        UnknownNameError: no adapter has that name, or it has no option of that name.
        ConfigError: an option's value is not usable.
    """
    cls = adapter_class(name)
    own = [each.name for each in options_of(cls)]
    for key in [key for key in NOT_TRAINED if key in options and key not in own]:
        raise UnknownNameError(f"--{key}: {name} {NOT_TRAINED[key]}; it takes {', '.join(own) or 'no options'}")
    return cls(**chosen(cls, options, f"adapter '{name}'"))


def check_packages(who: str, packages: Mapping[str, str]) -> None:
    """Raise the CapabilityError of a package that is not installed.

    Args:
        who: what needs it: "adapter 'x'".
        packages: package -> the extra of this project that brings it.
    """
    for package, extra in packages.items():
        need_package(who, package, extra)


def load_adapter(path: str | Path, backbone=None) -> Adapter:
    """A fitted adapter from its file.

    Args:
        path: what `Adapter.save` wrote.
        backbone: if given, its fingerprint must be that of the fit; methods that run it at prediction need it.

    Raises:
        DataError: the file is missing, damaged or of another format, or its tensors do not fit one another.
        CapabilityError: the backbone is not that of the fit.
    """
    from ..contracts.adapter_file import read_adapter_file

    header, tensors = read_adapter_file(Path(path))
    if backbone is not None and header.get("backbone") not in (None, "", backbone.fingerprint):
        raise CapabilityError(
            f"{path}: was fitted on backbone {header['backbone']}, this one is {backbone.fingerprint} "
            f"('{backbone.spec}'); load the backbone of the fit"
        )
    try:
        built = build_adapter(header["adapter"], **header.get("options", {}))
    except ConfigError as error:
        raise DataError(f"{path}: {error}; it was written by another version, or is damaged; fit again") from error
    adapter = built.restore(header, tensors, Path(path))
    _try(adapter, Path(path))
    return adapter if backbone is None else adapter.attach(backbone)


def _try(adapter: Adapter, path: Path) -> None:
    """Raise DataError unless an adapter of classes that needs features alone gives one logit per class."""
    import torch

    if adapter.transductive or not adapter.at_predict <= {"features"} or not (adapter.dim_ and adapter.class_names_):
        return
    row = torch.full((1, adapter.dim_), adapter.dim_**-0.5)
    try:
        with torch.no_grad():
            logits = adapter.logits(row)
    except Exception as error:  # whatever tensors of other shapes and kinds make of it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise DataError(f"{path}: its tensors do not match one another ({reason}); fit again") from error
    if tuple(logits.shape) != (1, len(adapter.class_names_)):
        raise DataError(
            f"{path}: gives {tuple(logits.shape)[-1]} logits for its {len(adapter.class_names_)} classes; fit again"
        )


def load_domain(name: str) -> Domain:
    """A domain plug-in by name.

    Raises:
        UnknownNameError: no domain has that name.
    """
    domain = _load(find_entry(name, catalogue.domains(), "domain"), Domain)
    domain = domain() if isinstance(domain, type) else domain
    if not domain.name:
        type(domain).name = name
    return domain


def task_class(name: str) -> type[Task]:
    """The class of a task; it is made for each command, with the domain it is done in.

    Raises:
        UnknownNameError: no task has that name.
    """
    return _class(name, catalogue.tasks(), Task)


def build_metric(name: str | type[Metric]) -> Metric:
    """A metric by name, or of a class.

    Raises:
        UnknownNameError: no metric has that name.
    """
    if isinstance(name, type):
        return name()
    return _class(name, catalogue.metrics(), Metric)()


def loss_class(name: str) -> type[Loss]:
    """The class of a loss.

    Raises:
        UnknownNameError: no loss has that name.
    """
    from ..contracts.loss import Loss

    return _class(name, catalogue.losses(), Loss)


def build_loss(name: str, dims: Mapping[str, int] | None = None, **options: Any) -> Loss:
    """A loss module by name. `dims` names the widths its heads need.

    Raises:
        UnknownNameError: no loss, or no option, has that name.
        ConfigError: an option's value is not usable.
        CapabilityError: `dims` lacks a width.
    """
    cls = loss_class(name)
    return cls(dims, **chosen(cls, options, f"loss '{name}'"))


def build_backbone(entry: NameOrigin, name: str) -> Backbone:
    """What a family of backbones of another package makes of the name behind its own.

    Raises:
        ConfigError: it does not import, it fails, or makes something else.
    """
    from ..contracts.backbone import Backbone

    assert entry.entry_point is not None
    make = _imported(entry, entry.entry_point)
    try:
        backbone = make(name)
    except VladaptError:
        raise
    except Exception as error:  # whatever the package's code raises
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"backbone '{entry.name}:{name}' ({entry.origin}): {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(backbone, Backbone):
        raise ConfigError(
            f"backbone '{entry.name}:{name}' ({entry.origin}) is a {type(backbone).__name__}, no Backbone"
        )
    backbone.spec = f"{entry.name}:{name}"
    return backbone


def judgement_class(name: str) -> type[Judgement]:
    """The class of a judgement.

    Raises:
        UnknownNameError: no judgement has that name.
    """
    return _class(name, catalogue.judgements(), Judgement)


def build_judgement(name: str, **options: Any) -> Judgement:
    """A judgement by name.

    Raises:
        UnknownNameError: no judgement, or no option, has that name.
        ConfigError: an option's value is not usable.
    """
    cls = judgement_class(name)
    return cls(**chosen(cls, options, f"judgement '{name}'"))


def output_class(name: str) -> type[OutputKind]:
    """The class of a kind of output.

    Raises:
        UnknownNameError: no kind has that name.
    """
    cls = _load(find_entry(name, catalogue.outputs(), "kind of output"), OutputKind)
    cls.name = name
    return cls


def outputs_of(asked: str | Iterable[str]) -> tuple[OutputKind, ...]:
    """Kinds of output by name, as `--as` has them: "dicom-sr,worklist:urgent=mass,nodule".

    Raises:
        UnknownNameError: no kind, or no option, has that name. ConfigError: an option's value is not usable, or a kind
            is asked for twice. CapabilityError: a package is missing.
    """
    kinds: dict[str, OutputKind] = {}
    for text in _divided_kinds(asked):
        name, *options = OPTION_OF_KIND.split(text)
        cls, what = output_class(name.strip()), f"--as {name.strip()}"
        if cls.name in kinds:
            raise ConfigError(f"{what}: given twice; omit one")
        for package, extra in cls.packages.items():
            need_package(what, package, extra)
        pairs = [option.partition("=") for option in options]
        kinds[cls.name] = cls(**chosen(cls, {key.replace("-", "_"): value for key, _, value in pairs}, what))
    return tuple(kinds.values())


def _divided_kinds(asked: str | Iterable[str]) -> list[str]:
    """A comma begins a kind, or goes on with the values of an option."""
    known = catalogue.outputs()
    texts: list[str] = []
    for given in [asked] if isinstance(asked, str) else asked:
        for place, piece in enumerate(given.split(",")):
            if place and "=" in texts[-1] and piece.partition(":")[0].strip() not in known:
                texts[-1] += f",{piece}"
            else:
                texts.append(piece)
    return texts


def selector_class(name: str) -> type[Selector]:
    """The class of a selector.

    Raises:
        UnknownNameError: no selector has that name.
    """
    from ..contracts.selector import Selector

    return _class(name, catalogue.selectors(), Selector)


def build_selector(name: str, **options: Any) -> Selector:
    """A selector of images to label, by name.

    Raises:
        UnknownNameError: no selector, or no option, has that name.
        ConfigError: an option's value is not usable.
    """
    cls = selector_class(name)
    return cls(**chosen(cls, options, f"selector '{name}'"))


def judgements_of(task: type[Task] | Task) -> dict[str, type[Judgement]]:
    """Name -> class of all that is said in a task: what it names itself, and its domain for it, then what is installed
    besides.

    Raises:
        UnknownNameError: it names one that there is not. ConfigError: one of another package does not import.
    """
    domain = getattr(task, "domain", None)  # a class has none
    of_domain = () if domain is None else domain.judgements.get(task.name, ())
    found = {name: judgement_class(name) for name in (*task.judgements, *of_domain)}
    others = {name: judgement_class(name) for name, at in catalogue.judgements().items() if at.entry_point}
    return found | {name: of for name, of in others.items() if any(issubclass(each, of.judges) for each in task.judges)}


def judging_options(task: type[Task] | Task, at: str) -> dict[str, tuple[str, ...]]:
    """Option -> the judgements whose it is, of all that a task makes in a command: one, or those of a common base that
    declares it.

    Raises:
        ConfigError: two judgements have an option of one name.
    """
    owners: dict[str, tuple[str, ...]] = {}
    bases: dict[str, type] = {}
    for name, of in judgements_of(task).items():
        for each in options_of(of) if at in of.at else ():
            base = next(cls for cls in of.__mro__ if each.name in vars(cls).get("__annotations__", {}))
            if bases.setdefault(each.name, base) is not base or (each.name in owners and not isabstract(base)):
                other = owners[each.name][0]
                raise ConfigError(f"judgements '{other}' and '{name}' both have an option '{each.name}'")
            owners[each.name] = (*owners.get(each.name, ()), name)
    return owners


def judges_at(task: Task, at: str, given: Mapping[str, Any] | None = None) -> list[Judgement]:
    """The judgements that a task makes in a command, in their order.

    Args:
        given: options by name, which may be of others too; what is None is not given.

    Raises:
        ConfigError: a value that its option does not accept.
    """
    owners = judging_options(task, at)
    values = {key: value for key, value in (given or {}).items() if key in owners and value is not None}
    return [
        build_judgement(name, **{key: value for key, value in values.items() if name in owners[key]})
        for name, of in judgements_of(task).items()
        if at in of.at
    ]


def check_fit(
    task: Task, given: Mapping[str, Any], adapter: Adapter, prepared: PreparedData, shots: int | None
) -> None:
    """Raise what judgements whose options are given can tell before a fit; see `Judgement.check_fit`."""
    owners = judging_options(task, FIT) if given else {}
    asked = {name for key, names in owners.items() if key in given for name in names}
    for judgement in judges_at(task, FIT, given) if asked else ():
        if judgement.name in asked:
            judgement.check_fit(adapter, prepared, shots, given)


def lasting(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a fit that hold in evaluations of its run."""
    owners = judging_options(task, FIT) if given else {}
    return {key: given[key] for key, names in owners.items() if key in given and judgement_class(names[0]).lasts}


def check_judging(task: Task, at: str, given: Mapping[str, Any]) -> None:
    """Raise the ConfigError of an option that no judgement of the task has there, or of a value it does not accept."""
    owners = judging_options(task, at) if given else {}
    for key in given:
        if key not in owners:
            raise ConfigError(f"--{key.replace('_', '-')}: {task.title} does not use it; omit it")
    if given:
        judges_at(task, at, given)


def divided_options(task: Task, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a fit's options are for: the task itself, as they were given, and its judgements, each value in its type.

    Raises:
        ConfigError: a value that its option does not accept.
    """
    owners = judging_options(task, FIT) if given else {}
    judging = {key: value for key, value in given.items() if key in owners}
    made = {judgement.name: judgement for judgement in judges_at(task, FIT, judging)} if judging else {}
    own = {key: value for key, value in given.items() if key not in owners}
    return own, {key: getattr(made[owners[key][0]], key) for key in judging}


def _class(name: str, entries: dict[str, NameOrigin], base: type) -> Any:
    """The subclass of `base` that has a name, which it learns.

    Raises:
        UnknownNameError: nothing has that name.
    """
    cls = _load(find_entry(name, entries, base.__name__.lower()), base)
    cls.name = name
    return cls


def _load(entry: NameOrigin, base: type):
    """The class (or, from an entry point, the instance) of `base` that an entry names."""
    if entry.entry_point is not None:
        loaded = _imported(entry, entry.entry_point)
        if inspect.ismodule(loaded):
            loaded = _only_subclass(loaded, base, entry)
        if not (isinstance(loaded, base) or (isinstance(loaded, type) and issubclass(loaded, base))):
            raise ConfigError(f"{entry.kind} '{entry.name}' ({entry.origin}) is not of type {base.__name__}")
        return loaded
    try:
        module = importlib.import_module(f"{PACKAGE}.{entry.module}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith(PACKAGE):
            raise
        extra = f" with: pip install 'vladapt[{entry.name}]'" if entry.kind == "domain" else ""
        raise CapabilityError(
            f"{entry.kind} '{entry.name}' needs the package '{error.name}'; install it{extra}"
        ) from None
    return _only_subclass(module, base, entry)


def _imported(entry: NameOrigin, point: EntryPoint) -> Any:
    """What an entry point stands for."""
    try:
        return point.load()
    except Exception as error:
        raise ConfigError(f"{entry.kind} '{entry.name}' ({entry.origin}) does not import: {error}") from error


@cache
def _only_subclass(module: ModuleType, base: type, entry: NameOrigin) -> type:
    subclasses = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__.startswith(module.__name__)  # asked first: of most it is not, and a fit asks hundreds
        and issubclass(value, base)
        and not inspect.isabstract(value)
        and not value.__name__.startswith("_")
    ]
    bases = {cls for cls in subclasses if any(cls is not other and issubclass(other, cls) for other in subclasses)}
    subclasses = [cls for cls in subclasses if cls not in bases]
    if len(subclasses) != 1:
        raise ConfigError(
            f"{entry.kind} '{entry.name}' ({entry.origin}) must define one {base.__name__}, it has {len(subclasses)}"
        )
    return subclasses[0]


def curator_class(name: str) -> type[Curator]:
    """The class of a curator.

    Raises:
        UnknownNameError: no curator has that name.
    """
    from ..contracts.curator import Curator

    return _class(name, catalogue.curators(), Curator)


def build_curator(name: str, **options: Any) -> Curator:
    """A curator of pairs of image and text, by name.

    Raises:
        UnknownNameError: no curator, or no option, has that name. ConfigError: an option's value is not usable.
    """
    cls = curator_class(name)
    settled = chosen(cls, options, f"curator '{name}'")
    if missing := next((each for each in options_of(cls) if each.default is ABSENT and each.name not in settled), None):
        raise ConfigError(f"curator '{name}': needs {missing.name}, a {missing.help}; give --set {missing.name}=...")
    return cls(**settled)


def benchmark_class(kind: str) -> type[BenchSet]:
    """The class of a kind of benchmark set.

    Raises:
        UnknownNameError: there is no such kind.
    """
    from ..contracts.bench import BenchSet

    cls = _load(find_entry(kind, catalogue.benchmarks(), "benchmark"), BenchSet)
    cls.kind = kind
    return cls


def composition_class(name: str) -> type[Composition]:
    """The class of a composition.

    Raises:
        UnknownNameError: no composition has that name.
    """
    from ..contracts.composition import Composition

    return _class(name, catalogue.compositions(), Composition)


def build_composition(name: str, **options: Any) -> Composition:
    """What makes one query of an image and words, by name; options may stand behind it ("freedom:words=5").

    Raises:
        UnknownNameError: no composition, or no option, has that name. ConfigError: an option's value is not usable.
    """
    name, *behind = OPTION_OF_KIND.split(name)
    cls = composition_class(name.strip())
    pairs = (text.partition("=") for text in behind)
    given = {**{key.replace("-", "_"): value for key, _, value in pairs}, **options}
    return cls(**chosen(cls, given, f"--compose {cls.name}"))
