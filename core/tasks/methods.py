"""The adapters that a recipe asks for: built with its options, and checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from ..backbones.load import load_backbone
from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.items import SPLITS, DomainData
from ..contracts.options import options_of
from ..contracts.recipe import HOOKS, SAMPLE, Recipe, check_data_place
from ..data.label_files import is_label_file, read_label_file
from ..data.pools import listed_names
from ..data.sampling import base_new, restrict
from ..data.splits import assign_splits
from ..data.verify import FileHashes, drop_unreadable
from ..errors import CapabilityError, ConfigError, UnknownNameError, did_you_mean, shortened
from ..registry import adapter_class, build_adapter
from ..runtime.progress import Reporter

SHARED = ("batch_size", "amp", "workers")
"""Keys that say how images are encoded and, for adapters that train towers, how these are trained."""


def adapter_of(recipe: Recipe) -> Adapter:
    """The recipe's adapter, not fitted.

    Raises:
        ConfigError: an option's value is not usable. CapabilityError: a package that it needs is not installed.
    """
    adapter = build_adapter(recipe.adapter_name, **adapter_options(recipe))
    check_packages(adapter)
    return adapter


def adapter_options(recipe: Recipe) -> dict[str, Any]:
    """Options for the recipe's adapter. One that trains towers takes the batch size, precision and workers of the
    recipe, unless it has its own."""
    options = recipe.adapter_options
    if trains_towers(recipe.adapter_name):
        options = {**{key: getattr(recipe, key) for key in SHARED if getattr(recipe, key) is not None}, **options}
    return options


def with_published(recipe: Recipe, published: str | None, names: Iterable[str | None]) -> tuple[Recipe, list[str]]:
    """The recipe with the settings that its methods publish for a set, where nobody gave others, and sentences of it.

    Args:
        published: the set's name, as methods know it; None for no set.
        names: of the methods.

    Raises:
        ConfigError: a set is asked for, and nothing takes it.
    """
    settled = {name: adapter_class(name).presets for name in names if name is not None}
    # rows of a features file come without a domain that would know the set: the method reads its name
    taken = [name for name, sets in settled.items() if published in sets or (published and recipe.features and sets)]
    if recipe.features and published and not taken:
        raise ConfigError(
            f"--preset {published}: no settings for single data sets are published for {', '.join(settled)}; omit it"
        )
    taken = [name for name in taken if "preset" not in recipe.with_adapter(name).adapter_options]
    if not taken:
        return recipe, []
    options = {name: {"preset": published, **(recipe.adapters.get(name) or {})} for name in taken}
    note = f"{', '.join(taken)}: the settings published for {published}; --preset none uses the usual ones"
    return recipe.with_(adapters={**recipe.adapters, **options}), [note]


def with_shared_options(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe whose `adapter` options, where given without a name, are those of every method that has them.

    An option that is given for one method by name goes before that.

    Args:
        names: of the methods.

    Raises:
        UnknownNameError: a name, or an option that none of the methods has.
    """
    beside_name = {key: value for key, value in recipe.adapter.items() if key != "name"}
    if recipe.gave("adapter.name") or not beside_name:
        return recipe
    has = {name: {option.name for option in options_of(adapter_class(name))} for name in names}
    for key in beside_name:
        if not any(key in options for options in has.values()):
            known = set().union(*has.values())
            raise UnknownNameError(
                f"--set adapter.{key}: not an option of {', '.join(names)}; {did_you_mean(key, known)}"
            )
    shared = {name: {key: value for key, value in beside_name.items() if key in has[name]} for name in names}
    own = {name: {**options, **(recipe.adapters.get(name) or {})} for name, options in shared.items() if options}
    return recipe.with_(adapter={"name": recipe.adapter_name}, adapters={**recipe.adapters, **own})


def trains_towers(name: str | None) -> bool:
    """Whether an adapter trains on images themselves."""
    return name is not None and "pixels" in adapter_class(name).needs


def check_hooks(recipe: Recipe) -> None:
    """Raise the error of hooks that nobody has registered, or that nothing would call."""
    if not recipe.custom_hooks:
        return
    from ..training.hooks import check_registered
    from ..training.tower_adapter import TowerAdapter

    name = recipe.adapter_name or "auto"
    if name == "zero-shot" or not issubclass(adapter_class(name), TowerAdapter):
        raise ConfigError(f"--set {HOOKS}: adapter '{name}' trains no towers, so nothing would call them; omit it")
    check_registered(recipe.custom_hooks)


def encoding_batch_size(recipe: Recipe) -> int | None:
    """Images at once through the towers where nothing is trained; None measures it.

    Where towers are trained, `batch_size` counts the images of a training step.
    """
    return None if trains_towers(recipe.adapter_name) else recipe.batch_size


def check_named(recipe: Recipe, names: Iterable[str]) -> None:
    """Raise the ConfigError of options for an adapter that is not fitted."""
    for name in recipe.adapters:
        if name not in names:
            raise ConfigError(f"--set adapters.{name}: {name} is not fitted here; omit it, or name the adapter")


def check_packages(adapter: Adapter) -> None:
    """Raise the CapabilityError of a package that an adapter needs and that is not installed."""
    for package, extra in adapter.packages.items():
        if find_spec(package) is None:
            raise CapabilityError(
                f"adapter '{adapter.name}' needs the package '{package}'; "
                f"install it with: pip install 'vladapt[{extra}]'"
            )


def read_data(recipe: Recipe, domain: Domain, task: str) -> DomainData:
    """The recipe's data set, the domain's own sample, or the images of a table that `vladapt label` wrote.

    Raises:
        DataError: there is no such file or folder, or nothing usable in it.
    """
    path = recipe.data_path
    if path == SAMPLE:
        return domain.sample(task)
    check_data_place(path)
    if is_label_file(path):
        return read_label_file(path, domain, task, recipe.reading)
    return domain.read(path, task, **recipe.reading)


def backbone_of(recipe: Recipe, domain: Domain | None, device: str | None = None) -> Backbone:
    """The recipe's backbone, for as many channels as its images have.

    Raises:
        As `load_backbone`.
    """
    channels = None if domain is None else domain.channels(recipe.reading)
    return load_backbone(recipe.backbone, device or recipe.device, recipe.image_size, channels)


def place_of_data(recipe: Recipe) -> str:
    """Where the data lies, as it was given: the run says how the folder is found in which that holds."""
    return str(recipe.features or recipe.data_path)


def readable_samples(data: DomainData, reporter: Reporter, workers: int | None, hashes: FileHashes | None = None):
    """The samples whose files can be read; the others are listed in `skipped`.

    Raises:
        DataError: more than 5 % cannot.
    """
    with reporter.task("Checking samples", unit="samples") as progress:
        return drop_unreadable(data, hashes or FileHashes(), workers=workers, progress=progress)


def split_samples(data: DomainData, reporter: Reporter, workers: int | None, split_seed: int) -> DomainData:
    """The readable samples, each with its split."""
    hashes = FileHashes()
    return assign_splits(readable_samples(data, reporter, workers, hashes), seed=split_seed, hashes=hashes)


def restrict_classes(data: DomainData, classes: Any) -> DomainData:
    """Only some classes: None or "all", "base", "new", a list, comma-separated names, or a file with one per line."""
    indices = class_indices(data.class_names, classes)
    return data if indices is None else restrict(data, indices)


def class_indices(class_names: Sequence[str], classes: Any) -> list[int] | None:
    """Positions of the chosen classes, or None for all.

    Raises:
        ConfigError: a name that the data does not have.
    """
    if classes in ("base", "new"):
        base, new = base_new(class_names)
        return list(base if classes == "base" else new)
    wanted = listed_classes(classes)
    if wanted is None:
        return None
    for name in wanted:
        if name not in class_names:
            raise ConfigError(f"--classes: the data has no class '{name}'; {did_you_mean(name, class_names)}")
    return [class_names.index(name) for name in wanted]


def listed_classes(classes: Any) -> list[str] | None:
    """The names in `--classes`, each once; None where it names none ("all", "base", "new").

    Raises:
        ConfigError: fewer than two names.
    """
    if classes in (None, "all", "base", "new"):
        return None
    names = list(dict.fromkeys(listed_names(classes)))
    if len(names) < 2:
        given = classes if isinstance(classes, str) else ", ".join(names)
        raise ConfigError(f"--classes {shortened(given)}: give at least two classes, or a file of names")
    return names


def split_counts(data: DomainData) -> dict[str, dict[str, int]]:
    """Split -> class -> number of samples."""
    counts = {split: dict.fromkeys(data.class_names, 0) for split in SPLITS}
    for item in data.items:
        for label in item.classes():
            counts[item.split][data.class_names[label]] += 1
    return counts
