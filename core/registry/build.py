"""From a name to the thing: the one module that carries it is imported, nothing else."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts.domain import Domain, Metric
from ..contracts.options import chosen
from ..contracts.task import Task
from ..errors import CapabilityError, ConfigError, DataError
from . import catalogue
from .catalogue import PACKAGE, Entry, find, is_place

if TYPE_CHECKING:
    from ..contracts.adapter import Adapter
    from ..contracts.judgement import Judgement
    from ..contracts.loss import Loss
    from ..contracts.selector import Selector


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
    cls = _load(find(name, catalogue.adapters(), "adapter"), Adapter)
    cls.name = name
    return cls


def build_adapter(name: str, **options: Any) -> Adapter:
    """A new adapter with the given options.

    Raises:
        UnknownNameError: no adapter has that name, or it has no option of that name.
        ConfigError: an option's value is not usable.
    """
    cls = adapter_class(name)
    return cls(**chosen(cls, options, f"adapter '{name}'"))


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
    domain = _load(find(name, catalogue.domains(), "domain"), Domain)
    domain = domain() if isinstance(domain, type) else domain
    if not domain.name:
        type(domain).name = name
    return domain


def task_class(name: str) -> type[Task]:
    """The class of a task; it is made for each command, with the domain it is done in.

    Raises:
        UnknownNameError: no task has that name.
    """
    cls = _load(find(name, catalogue.tasks(), "task"), Task)
    cls.name = name
    return cls


def build_metric(name: str | type[Metric]) -> Metric:
    """A metric by name, or of a class.

    Raises:
        UnknownNameError: no metric has that name.
    """
    if isinstance(name, type):
        return name()
    cls = _load(find(name, catalogue.metrics(), "metric"), Metric)
    cls.name = name
    return cls()


def loss_class(name: str) -> type[Loss]:
    """The class of a loss.

    Raises:
        UnknownNameError: no loss has that name.
    """
    from ..contracts.loss import Loss

    cls = _load(find(name, catalogue.losses(), "loss"), Loss)
    cls.name = name
    return cls


def build_loss(name: str, dims: Mapping[str, int] | None = None, **options: Any) -> Loss:
    """A loss module by name. `dims` names the widths its heads need.

    Raises:
        UnknownNameError: no loss, or no option, has that name.
        ConfigError: an option's value is not usable.
        CapabilityError: `dims` lacks a width.
    """
    cls = loss_class(name)
    return cls(dims, **chosen(cls, options, f"loss '{name}'"))


def judgement_class(name: str) -> type[Judgement]:
    """The class of a judgement.

    Raises:
        UnknownNameError: no judgement has that name.
    """
    from ..contracts.judgement import Judgement

    cls = _load(find(name, catalogue.judgements(), "judgement"), Judgement)
    cls.name = name
    return cls


def build_judgement(name: str, **options: Any) -> Judgement:
    """A judgement by name.

    Raises:
        UnknownNameError: no judgement, or no option, has that name.
        ConfigError: an option's value is not usable.
    """
    cls = judgement_class(name)
    return cls(**chosen(cls, options, f"judgement '{name}'"))


def selector_class(name: str) -> type[Selector]:
    """The class of a selector.

    Raises:
        UnknownNameError: no selector has that name.
    """
    from ..contracts.selector import Selector

    cls = _load(find(name, catalogue.selectors(), "selector"), Selector)
    cls.name = name
    return cls


def build_selector(name: str, **options: Any) -> Selector:
    """A selector of images to label, by name.

    Raises:
        UnknownNameError: no selector, or no option, has that name.
        ConfigError: an option's value is not usable.
    """
    cls = selector_class(name)
    return cls(**chosen(cls, options, f"selector '{name}'"))


def _load(entry: Entry, base: type):
    """The class (or, from an entry point, the instance) of `base` that an entry names."""
    if entry.entry_point is not None:
        try:
            loaded = entry.entry_point.load()
        except Exception as error:
            raise ConfigError(f"{entry.kind} '{entry.name}' ({entry.origin}) does not import: {error}") from error
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


def _only_subclass(module, base: type, entry: Entry) -> type:
    subclasses = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and not inspect.isabstract(value)
        and value.__module__.startswith(module.__name__)
        and not value.__name__.startswith("_")
    ]
    bases = {cls for cls in subclasses if any(cls is not other and issubclass(other, cls) for other in subclasses)}
    subclasses = [cls for cls in subclasses if cls not in bases]
    if len(subclasses) != 1:
        raise ConfigError(
            f"{entry.kind} '{entry.name}' ({entry.origin}) must define one {base.__name__}, it has {len(subclasses)}"
        )
    return subclasses[0]
