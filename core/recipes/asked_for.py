"""What a recipe asks for: its data, read, restricted to its classes, checked and split; its adapters and its backbone,
built with its options and checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backbones.load import load_backbone
from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.items import DomainData, Item, check_ids
from ..contracts.options import options_of
from ..contracts.parts import TrainingViews, part_of
from ..contracts.recipe import AUTO, HOOKS, SAMPLE, Recipe, check_data_place
from ..data.file_hashes import FileHashes
from ..data.label_files import is_label_file, read_label_file
from ..data.pools import listed_names
from ..data.sampling import base_new, restrict
from ..data.splits import assign_splits
from ..data.unlabelled import images_of
from ..data.verify import drop_unreadable
from ..errors import CapabilityError, ConfigError, NoClassesError, UnknownNameError, did_you_mean, near_names, shortened
from ..prompts.languages import ClassWords, check_language, read_language
from ..registry import adapter_class, build_adapter, check_packages
from ..runs.sections import words_in
from ..runtime.progress import Reporter

CURE = "give a method that needs none (auto, stat-a for all images at once, zero-shot)"
SHARED = ("batch_size", "amp", "workers")
"""Keys that say how images are encoded and, for adapters that train towers, how these are trained."""


def read_data(recipe: Recipe, domain: Domain, task: str) -> DomainData:
    """The recipe's data set, the domain's own sample, or the images of a table that `vladapt label` wrote.

    Raises:
        DataError: there is no such file or folder, nothing usable in it, or as for `check_ids`.
    """
    path, options = recipe.data_path, domain.reading_for(recipe.reading, recipe.backbone)
    if path == SAMPLE:
        return domain.sample_as(task, options)
    check_data_place(path)
    if is_label_file(path):
        data = read_label_file(path, domain, task, recipe.reading)
    else:
        data = check_ids(domain.read(path, task, **options), path)
    return replace(data, tolerate=recipe.tolerate)


def place_of_data(recipe: Recipe) -> str:
    """Where the data lies, as it was given: the run says how the folder is found in which that holds."""
    return str(recipe.features or recipe.data_path)


def readable_samples(data: DomainData, reporter: Reporter, workers: int | None, hashes: FileHashes | None = None):
    """The samples whose files can be read; the others are listed in `skipped`.

    Raises:
        DataError: more cannot than are tolerated.
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


def data_facts(data: DomainData, path: str) -> dict[str, Any]:
    """What run.json says of the data of a fit, or a report of those of an evaluation.

    Args:
        path: as it was given.

    Returns:
        "counts" among them: split -> class -> number of samples.
    """
    counts = {split: dict.fromkeys(data.class_names, 0) for split in Item.SPLITS}
    for item in data.items:
        for label in item.classes():
            counts[item.split][data.class_names[label]] += 1
    facts = {"name": data.name, "path": path, "kind": data.kind, "licence": data.licence, "counts": counts}
    return facts if data.possible_groups is None else {**facts, "grouping": data.possible_groups.facts}


def class_words(recipe: Recipe, domain: Domain) -> ClassWords | None:
    """What a recipe calls classes, and asks of them, in its language; None where it names none.

    Raises:
        UnknownNameError, DataError: as of `read_language`.
    """
    content = recipe.language
    if content is None:
        return None
    if isinstance(content, Mapping):
        check_language(content, "--language")
    else:
        content = read_language(str(content), domain.languages, domain.name)
    return ClassWords.of(content, domain.kind_of_images)


def with_language(recipe: Recipe, domain: Domain | None) -> Recipe:
    """The recipe with the content of its language file, which a run then keeps.

    Raises:
        ConfigError: templates are given as well. As of `read_language`.
    """
    if recipe.language is None or domain is None:
        return recipe
    if recipe.templates is not None:
        raise ConfigError("--language and --set templates: give one of them; a --language FILE.json takes templates")
    read = recipe.language
    if not isinstance(read, Mapping):
        read = read_language(str(read), domain.languages, domain.name)
    check_language(read, "--language")
    return recipe.with_(language=dict(read))


def classes_of_data(recipe: Recipe, domain: Domain, task: str) -> DomainData:
    """The recipe's data set with the classes that `--classes` says, called as in the recipe's language.

    Where the folder has no class folders, or none of them is named like a class of `--classes`, no image has a label:
    all are for testing, and the classes are those named. Names that are nearly those of folders are taken for a slip,
    unless `--shots 0` says that no label is wanted.

    Raises:
        As `read_data` and `restrict_classes`.
    """
    if recipe.language is not None:
        data = classes_of_data(recipe.with_(language=None), domain, task)
        words = class_words(recipe, domain.of(data))
        return data if words is None else words.applied(data)
    names = listed_classes(recipe.classes)
    asked = names if recipe.protocol is None and (recipe.shots == 0 or not recipe.gave("shots")) else None
    try:
        data = read_data(recipe, domain, task)
    except NoClassesError as error:
        if asked is None:
            cure = "or name the classes with --classes and give a method that needs no labels"
            if names is not None and recipe.gave("shots") and recipe.protocol is None:
                cure = f"or omit --shots {recipe.shots}: without labels nothing is drawn"
            raise NoClassesError(f"{error}, {cure}") from None
        images = images_of(domain, [recipe.data_path], recipe.reading)
        name = Path(recipe.data_path).resolve().name
        return _named(replace(images, name=name, tolerate=recipe.tolerate), asked)
    if asked is None or data.kind != "labels" or _meant(asked, data.class_names, recipe.shots == 0):
        return restrict_classes(data, recipe.classes)
    folders = ", ".join(data.class_names[:5]) + (", ..." if len(data.class_names) > 5 else "")
    note = f"None of --classes is among the labels of the data ({folders}), so these are not used as labels."
    return _named(replace(data, published=None, notes=[*data.notes, note]), asked)


def _meant(names: Sequence[str], known: Sequence[str], exactly: bool) -> bool:
    """Whether one of the names is a class of the data, or a slip for one."""
    return any(name in known or (not exactly and near_names(name, known)) for name in names)


def _named(data: DomainData, names: Sequence[str]) -> DomainData:
    """The images without labels, all of them for testing."""
    items = [item.with_(target=None, split="test") for item in data.items]
    return replace(data, items=items, class_names=tuple(names))


def has_labels(data: DomainData) -> bool:
    """Whether some image of the set has a label."""
    return any(item.target is not None for item in data.items)


def on_target(recipe: Recipe) -> Recipe:
    """The recipe as it reads a target: all its classes, its own prompts, and no shots, as nothing is fitted there."""
    preset = recipe.preset if recipe.preset == Domain.NO_PRESET else AUTO
    return recipe.with_(classes=None, preset=preset, shots=0)


def adapter_of(recipe: Recipe) -> Adapter:
    """The recipe's adapter, not fitted.

    Raises:
        ConfigError: an option's value is not usable. CapabilityError: a package that it needs is not installed.
    """
    adapter = build_adapter(recipe.adapter_name, **adapter_options(recipe))
    check_packages(f"adapter '{adapter.name}'", adapter.packages)
    return adapter


def adapter_options(recipe: Recipe) -> dict[str, Any]:
    """Options for the recipe's adapter. One that trains towers takes the batch size, precision and workers of the
    recipe, as far as it has such options, unless it has its own."""
    options = recipe.adapter_options
    if fits_towers(recipe):
        known = {option.name for option in options_of(adapter_class(recipe.adapter_name))}
        shared = {key: getattr(recipe, key) for key in SHARED if key in known}
        options = {**{key: value for key, value in shared.items() if value is not None}, **options}
    return options


def planned(recipe: Recipe, names: Iterable[str]) -> dict[str, Adapter]:
    """Each adapter of a comparison, not fitted."""
    return {name: adapter_of(recipe.with_adapter(name)) for name in names}


def trains_towers(name: str | None) -> bool:
    """Whether an adapter trains on images themselves."""
    return name is not None and "pixels" in adapter_class(name).needs


def fits_towers(recipe: Recipe) -> bool:
    """Whether the recipe's adapter trains towers: always, or since it is told to."""
    return trains_towers(recipe.adapter_name) or bool(recipe.adapter_options.get("train_towers"))


def check_named(recipe: Recipe, names: Iterable[str]) -> None:
    """Raise the ConfigError of options for an adapter that is not fitted."""
    for name in recipe.adapters:
        if name not in names:
            raise ConfigError(f"--set adapters.{name}: {name} is not fitted here; omit it, or name the adapter")


def check_hooks(recipe: Recipe, names: Iterable[str] | None = None) -> None:
    """Raise the error of hooks that nobody has registered, or that nothing would call.

    Args:
        names: of the adapters of a comparison; by default the recipe's own.
    """
    if not recipe.custom_hooks:
        return
    from ..training.hooks import check_registered
    from ..training.tower_adapter import TowerAdapter

    names = [recipe.adapter_name or "auto"] if names is None else list(names)
    if not any(name != "zero-shot" and issubclass(adapter_class(name), TowerAdapter) for name in names):
        told = f"adapter '{names[0]}' trains" if len(names) == 1 else "these adapters train"
        raise ConfigError(f"--set {HOOKS}: {told} no towers, so nothing would call them; omit it")
    check_registered(recipe.custom_hooks)


def check_shots(recipe: Recipe, adapter: Adapter) -> None:
    """Refuse a method that learns from labels where none are to be used.

    Raises:
        ConfigError: as said.
    """
    if recipe.shots != 0 or adapter.label_free:
        return
    given, cure = "--shots 0", "give 1 or more, or a method that needs none"
    if recipe.protocol is not None and not recipe.gave("shots"):
        given, cure = f"--protocol {recipe.protocol}", "there are none, so give --adapter a method that needs none"
    raise ConfigError(
        f"{given}: adapter '{adapter.name}' learns from labelled images; {cure} (stat-a for all images at once, "
        "zero-shot)"
    )


def without_shots(recipe: Recipe, data: DomainData, adapter: Adapter) -> Recipe:
    """The recipe of a set without labels, which has no shots.

    Raises:
        CapabilityError: the method learns from labels.
    """
    if has_labels(data):
        return recipe
    if not adapter.label_free:
        lacking = f"adapter '{adapter.name}' learns from labelled images, and no image of {data.name} has a label"
        raise CapabilityError(f"{lacking}; {CURE}")
    return recipe.with_(shots=0)


def as_published(recipe: Recipe, names: Iterable[str], labelled: bool) -> Recipe:
    """The recipe whose methods have the options of papers, where it has a protocol and nobody gave others.

    Args:
        labelled: whether images are labelled.
    """
    if recipe.protocol is None:
        return recipe
    options = {}
    for name in names:
        given, of_papers = recipe.with_adapter(name).adapter_options, adapter_class(name).published_options(labelled)
        options[name] = {key: value for key, value in of_papers.items() if key not in given}
    return _with_defaults(recipe, options)


def with_published_views(recipe: Recipe, names: Iterable[str]) -> Recipe:
    """The recipe whose methods see as many views as they publish, where a protocol or a preset is asked for, there are
    images, and nobody said otherwise: new ones of the support in every epoch, if no keys are of another backbone, and
    several of each image that is classified."""
    options: dict[str, dict[str, Any]] = {}
    for name in [name for name in names if _views_are_asked_for(recipe, name)]:
        cls, own = adapter_class(name), recipe.with_adapter(name).adapter_options
        published = {"fresh_views": True} if part_of(cls, TrainingViews) and not recipe.resources.get("keys") else {}
        if None in cls.published_views:
            published["n_views"] = cls.published_views[None]
        options[name] = {key: value for key, value in published.items() if key not in own}
    return _with_defaults(recipe, options)


def _views_are_asked_for(recipe: Recipe, name: str) -> bool:
    """Whether a method sees as many views as it publishes: not on the rows of a features file, nor on a set that is
    merely recognised, since views cost many times the encoding of images as they are."""
    own = recipe.with_adapter(name).adapter_options
    by_preset = recipe.preset not in (AUTO, Domain.NO_PRESET) or own.get("preset") is not None
    by_preset = by_preset and bool(adapter_class(name).presets)
    return not recipe.features and (recipe.protocol is not None or by_preset)


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
    note = f"{', '.join(taken)}: the settings published for {published}; --preset none uses the usual ones"
    options: dict[str, dict[str, Any]] = {name: {"preset": published} for name in taken}
    for name in taken:
        if adapter_class(name).published_views and not _views_are_asked_for(recipe, name):
            options[name] |= {} if "n_views" in recipe.with_adapter(name).adapter_options else {"n_views": 1}
    return _with_defaults(recipe, options), [note]


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
    recipe = _with_defaults(recipe, {name: options for name, options in shared.items() if options})
    return recipe.with_(adapter={"name": recipe.adapter_name})


def _with_defaults(recipe: Recipe, options: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """The recipe with these options of methods, by name, where its `adapters` say nothing else."""
    own = {name: {**of, **(recipe.adapters.get(name) or {})} for name, of in options.items()}
    return recipe.with_(adapters={**recipe.adapters, **own})


def backbone_of(recipe: Recipe, domain: Domain | None, device: str | None = None) -> Backbone:
    """The recipe's backbone, for as many channels as its images have.

    Raises:
        As `load_backbone`.
    """
    channels = None if domain is None else domain.channels(recipe.reading)
    return load_backbone(recipe.backbone, device or recipe.device, recipe.image_size, channels)


def encoding_batch_size(recipe: Recipe) -> int | None:
    """Images at once through the towers where nothing is trained; None measures it.

    Where towers are trained, `batch_size` counts the images of a training step.
    """
    return None if fits_towers(recipe) else recipe.batch_size


def facts_for_judging(recipe: Recipe) -> dict[str, Any]:
    """What it says of a fit that is judged: seeds, workers, precision, and generic images."""
    return {key: getattr(recipe, key) for key in ("seed", "split_seed", "workers", "amp", "generic")}


def words_of_recipe(recipe: Recipe, *_: Any, domain: Domain | None = None, **__: Any) -> Mapping[str, str]:
    """What the domain and the task of a recipe call images and patients.

    Args:
        domain: in place of the recipe's.
    """
    return words_in(domain or recipe.domain, recipe.task, recipe.reading)
