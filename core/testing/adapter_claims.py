"""Whether an adapter does what it says of itself: needs and abilities, packages, options that count, its paper."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ..backbones.heads import HeadBackbone
from ..contracts.adapter import ABILITIES, Adapter
from ..contracts.backbone import CAPABILITIES
from ..contracts.features import TextClassifier
from ..contracts.options import as_text, options_of
from ..contracts.pair_head import PairHead
from ..contracts.resources import IN_PLACE_OF_CHANCE, NEEDS, REQUIRED
from ..errors import CapabilityError, ConfigError
from .contract import differences, names_its_origin, refusal
from .drawn_samples import DrawnPairs
from .method import Method
from .options import other_values
from .world import World, world_of

EXTRAS = {
    "peft": "fine-tune",
    "transformers": "hf",
    "open_clip": "open-clip",
    "faiss": "retrieval",
    "pydicom": "medical",
    "nibabel": "medical",
    "monai": "medical",
    "albumentations": "medical",
    "rasterio": "remote-sensing",
    "av": "video",
    "mmdet": "open-vocab",
    "mmseg": "open-vocab",
}
"""Packages that only an extra of this project brings."""
GIVEN_WITH = {"support_captions": "support_folder", "place": "pixels", "images": "images"}
"""Resource -> the need that it comes with, where that has another name."""
SAME = 1e-3
COUNTS = 1e-5
"""By how much results of an option's values differ at least."""
FEW = 4
"""Test images on which options are compared."""
UNEQUAL = (2, 3, 6)
"""Images of the classes, where they are to have unequal numbers."""
OF_UNEQUAL = frozenset({"class_weight"})
"""Options that mean nothing on other classes."""


def rules_of(method: Method) -> list:
    """The rules that apply to a method."""
    claims = method.claims
    rules = [
        what_it_declares_exists,
        it_names_its_paper,
        what_it_needs_is_asked_for,
        it_reads_what_it_declares,
        at_prediction_it_reads_what_it_declares,
        training_is_counted,
        what_is_optional_is_used,
        new_classes if "new_classes" in claims.can else new_classes_are_refused,
        pairs if "pairs" in claims.can else pairs_are_refused,
        every_option_counts,
    ]
    if claims.reads_bags:
        rules.append(a_bag_alone_is_answered)
    if claims.backbone_needs:
        rules.append(other_towers_are_refused)
    if claims.text_free:
        rules.append(it_learns_without_texts)
    if claims.transductive:
        rules.append(the_test_images_count)
    if claims.cost_options:
        rules.append(cost_options_change_no_result)
    if claims.of_pairs:
        rules.append(options_of_pairs_count)
    if claims.experimental:
        rules.append(a_note_says_what_is_experimental)
    return [*rules, packages_are_declared]


def what_it_declares_exists(method: Method) -> Iterator[str]:
    cls = method.claims
    allowed = {
        "needs": (cls.needs, NEEDS),
        "optional": (cls.optional, NEEDS),
        "at_predict": (cls.at_predict, NEEDS),
        "backbone_needs": (cls.backbone_needs, CAPABILITIES),
        "can": (cls.can, ABILITIES),
        "trained": (cls.trained, cls.state),
        "cost_options": (cls.cost_options, {each.name for each in options_of(method.cls)}),
    }
    for name, (declared, there) in allowed.items():
        if unknown := sorted(set(declared) - set(there)):
            yield f"{name} names '{unknown[0]}', which is none of {', '.join(sorted(there))}"
    if twice := sorted(cls.needs & cls.optional):
        yield f"'{twice[0]}' is in needs and in optional"
    if "views" in cls.needs and "views" not in {each.name for each in options_of(method.cls)}:
        yield "needs 'views', and has no option 'views' that says how many"


def it_names_its_paper(method: Method) -> Iterator[str]:
    """Title, year and arXiv id, or DOI, in the docstring of the class or its module; or that it is a baseline."""
    if not names_its_origin(method.cls):
        yield (
            "its docstring names no paper: give title, year and arXiv id (2024, arXiv 2404.02285), or say that it is a "
            "baseline"
        )


def what_it_needs_is_asked_for(method: Method) -> Iterator[str]:
    """Without something in `needs`, a fit says in one line that it is missing."""
    for need, change in _without(method):
        did, _ = refusal(lambda c=change: method.fit(change=c), CapabilityError)
        if did:
            yield f"needs '{need}', and without it {did}; raise the CapabilityError of one line"


def it_reads_what_it_declares(method: Method) -> Iterator[str]:
    """Of resources, all of `needs` and nothing besides `needs` and `optional`."""
    cls, read = method.claims, method.fitted.read
    asked = cls.needs | cls.optional
    free = {"templates", *IN_PLACE_OF_CHANCE} | ({"images", "place"} if asked & {"pixels", "images"} else set())
    free |= {"unlabeled_images"} if "unlabeled" in asked and asked & {"pixels", "images"} else set()
    for name in sorted(read - free):
        if GIVEN_WITH.get(name, name) not in asked:
            yield f"reads resources['{name}'], which is neither in needs nor in optional"
    for name in sorted(cls.needs & REQUIRED.keys() - read):
        if name not in cls.at_predict:
            yield f"needs '{name}', and never reads it"


def what_is_optional_is_used(method: Method) -> Iterator[str]:
    """With each resource of `optional` it is fitted, and reads it."""
    for name in sorted(method.claims.optional & method.world.resources.keys()):
        fitted = method.fit(also=(name,))
        if name not in fitted.read and name not in method.claims.at_predict:
            yield f"optional names '{name}', and its fit never reads it"
        elif not torch.isfinite(method.world.logits(fitted.adapter, method.world.items["test"][:FEW])).all():
            yield f"given '{name}', its logits are not finite numbers"


def it_learns_without_texts(method: Method) -> Iterator[str]:
    """Fitted with a classifier that says nothing, as of an image tower alone, it still tells images apart."""
    world = method.world
    silent = TextClassifier.without_texts(world.names, world.backbone.embed_dim)
    logits = world.logits(method.fit(change={"classifier": silent}).adapter, world.items["test"][:FEW])
    if not torch.isfinite(logits).all():
        yield "is text_free, and without texts its logits are not finite numbers"
    elif torch.allclose(logits, logits[:1].expand_as(logits), rtol=0, atol=COUNTS):
        yield "is text_free, but without texts it gives the same answer for all images"


def at_prediction_it_reads_what_it_declares(method: Method) -> Iterator[str]:
    """What `at_predict` names changes the logits, or their absence is noticed; the backbone is run where it says so."""
    for name in sorted(method.claims.at_predict):
        try:
            logits = _logits_without(method, name)
        except Exception:
            continue
        if logits is not None and torch.allclose(logits, method.logits, rtol=0, atol=COUNTS):
            yield f"at_predict names '{name}', and its logits are the same without"


def training_is_counted(method: Method) -> Iterator[str]:
    """Who has a learning rate or epochs trains, and says how many numbers."""
    names = {each.name for each in options_of(method.cls)}
    if names & {"lr", "epochs"} and not method.fitted.report.trained_parameters:
        yield "has a learning rate or epochs, and reports no trained parameters; name its tensors in trained"


def new_classes(method: Method) -> Iterator[str]:
    """The fitted method on classes that it never saw; the method itself stays as it is."""
    adapter, other = method.loaded(), world_of(method.backbone, 4, 1, 3)
    expected = method.world.logits(adapter)
    moved = adapter.for_classes(method.backbone, other.names, classifier=other.classifier)
    logits = other.logits(moved)
    if logits.shape != (3, 4) or not torch.isfinite(logits).all():
        yield f"for_classes() of 4 new classes gives logits {tuple(logits.shape)}, or no finite numbers"
    if not torch.equal(method.world.logits(adapter), expected):
        yield "for_classes() changes the adapter itself"


def new_classes_are_refused(method: Method) -> Iterator[str]:
    world = method.world
    adapter = method.fitted.adapter
    call = lambda: adapter.for_classes(method.backbone, ("a", "b", "c"), classifier=world.classifier)  # noqa: E731
    did, _ = refusal(call, CapabilityError)
    if did:
        yield f"cannot score new classes, and its for_classes() {did}; put 'new_classes' in can, or refuse in one line"


def pairs(method: Method) -> Iterator[str]:
    """Towers learn image-text pairs."""
    adapter, towers = method.build(), method.backbone
    report = adapter.fit_pairs(DrawnPairs(), towers, seed=1)
    if not report.trained_parameters:
        yield "can learn pairs, and its fit_pairs() reports no trained parameters"
    if adapter.adapted(towers) is towers:
        yield "can learn pairs, and its fit_pairs() leaves the towers as they were"


def a_bag_alone_is_answered(method: Method) -> Iterator[str]:
    """The parts of a sample say what the sample does in a set; of weights of parts the sums are 1."""
    adapter, items = method.fitted.adapter, method.world.items["test"][:FEW]
    bags = method.world.seen(adapter, items, adapter.adapted(method.backbone))[0].bags
    alone, expected = torch.stack([adapter.bag_logits(bag) for bag in bags]), method.world.logits(adapter, items)
    if not torch.allclose(alone, expected, rtol=1e-4, atol=1e-4):
        yield "reads bags, and its bag_logits() of a sample's parts are not its logits() of the sample"
    for bag, weights in zip(bags, map(adapter.attention, bags)):
        if weights is None:
            continue
        if weights.shape not in ((1, len(bag)), (len(adapter.class_names_), len(bag))):
            yield f"its attention() has shape {tuple(weights.shape)} for {len(bag)} parts; (1 or C, T) is needed"
        elif not torch.allclose(weights.sum(dim=1), torch.ones(len(weights)), atol=1e-3):
            yield "its attention() does not add up to 1"


def pairs_are_refused(method: Method) -> Iterator[str]:
    adapter = method.build()
    did, _ = refusal(lambda: adapter.fit_pairs(DrawnPairs(), method.backbone, seed=1), CapabilityError)
    if did:
        yield f"cannot learn pairs, and its fit_pairs() {did}; put 'pairs' in can, or refuse in one line"


def other_towers_are_refused(method: Method) -> Iterator[str]:
    """Before anything is fitted, in a line that names towers that have what is lacking."""
    with mock.patch.object(method.backbone, "capabilities", frozenset()):
        did, message = refusal(lambda: method.build().check_towers(method.backbone), CapabilityError)
    if did or "towers that have it" not in message:
        needed = ", ".join(sorted(method.claims.backbone_needs))
        yield f"on towers without {needed} its check_towers() {did or 'names no others'}"


def the_test_images_count(method: Method) -> Iterator[str]:
    """A transductive method looks at the images that it is given without labels."""
    everything = method.world.inputs(method.build())["unlabeled"]
    some = method.fit(change={"unlabeled": everything.select(list(range(5)))}).adapter
    fitted = method.fitted.adapter
    if not any(differences(getattr(some, name), getattr(fitted, name), name) for name in some.state):
        yield "is transductive, and fits the same whatever the test images are"


def a_note_says_what_is_experimental(method: Method) -> Iterator[str]:
    if not any(method.claims.experimental in note for note in method.fitted.report.notes):
        yield "is experimental, and no note of its report says so"


def every_option_counts(method: Method) -> Iterator[str]:
    """Some value of it changes a result, alone, on classes with unequal numbers of images, or in the settings of
    `counts`; those in `cost_options` change none."""
    results = _Results(method)
    for option in options_of(method.cls):
        name = option.name
        if name in method.claims.cost_options | method.claims.of_pairs | method.shown:
            continue
        if name in method.counts:
            one, other = method.counts[name]
            if {key for key in {**one, **other} if one.get(key, _ABSENT) != other.get(key, _ABSENT)} - {name}:
                yield f"option '{name}': the two settings of counts differ in more than it"
            elif not results.differ(one, other):
                yield f"option '{name}' changes no result, in the settings of counts either"
            continue
        tried = other_values(option, method.options.get(name, option.default))
        unequal = world_of(method.backbone, len(UNEQUAL), UNEQUAL)
        worlds = (unequal,) if name in OF_UNEQUAL else (method.world, unequal)
        if not any(results.change({name: value}, world) for world in worlds for value in tried):
            words = f"; tried {' and '.join(map(as_text, tried))}" if tried else ""
            yield f"option '{name}' changes no result{words}; name it in cost_options, or give settings in counts"


def options_of_pairs_count(method: Method) -> Iterator[str]:
    """Those that only a fit on pairs reads change its similarities, in the settings of `counts`; a fit on classes
    refuses them."""
    for name in sorted(method.claims.of_pairs):
        if name not in method.counts:
            yield f"option '{name}' is of pairs; give settings in counts"
            continue
        one, other = (_similarities(method, options) for options in method.counts[name])
        if name in method.claims.cost_options and not torch.allclose(one, other, rtol=SAME, atol=SAME):
            yield f"option '{name}' is in cost_options, and changes similarities after a fit on pairs"
        if name not in method.claims.cost_options and _alike(one, other):
            yield f"option '{name}' changes no similarity after a fit on pairs"
        did, _ = refusal(partial(method.fit, options=method.counts[name][1]), ConfigError)
        if did:
            yield f"option '{name}' is of pairs, and a fit on classes {did}"


def _similarities(method: Method, options: Mapping[str, Any]) -> Tensor:
    """(4, 3) of drawn parts with texts after a fit on drawn pairs."""
    adapter, pairs = method.build(**options), DrawnPairs()
    adapter.fit_pairs(pairs, method.backbone, seed=1)
    towers = adapter.adapted(method.backbone)
    assert isinstance(adapter, PairHead) and isinstance(towers, HeadBackbone)
    parts = torch.randn(4, 3, method.backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    texts = [str(pairs.text("caption", row, 0)) for row in (0, 1, 5)]
    return adapter.pair_scores(towers.base, parts, torch.ones(4, 3, dtype=torch.bool), texts)


def cost_options_change_no_result(method: Method) -> Iterator[str]:
    """They may change speed and memory. All are tried together, then numbers once more without the switches; then one
    by one what may be it."""
    costs = [each for each in options_of(method.cls) if each.name in method.claims.cost_options]
    tried = {each.name: other_values(each, method.options.get(each.name, each.default))[:2] for each in costs}
    everything = {name: values[0] for name, values in tried.items() if values}
    numbers = {name: values[1] for name, values in tried.items() if len(values) == 2}
    for options in filter(None, (everything, numbers)):
        same = _same_with(method, options)
        guilty = [] if same else [name for name in options if _same_with(method, {name: options[name]}) is False]
        for names in guilty or ([", ".join(options)] if same is False else []):
            value = as_text(options.get(names, "these together"))
            yield f"option '{names}' is in cost_options, and {names}={value} changes the result"


def packages_are_declared(method: Method) -> Iterator[str]:
    """A package of an extra that its module imports is in `packages`; one that is there is really needed."""
    declared = method.claims.packages
    for package in sorted(_imports(method.cls) & EXTRAS.keys() - declared.keys()):
        yield f"imports '{package}', which only the extra '{EXTRAS[package]}' brings; put it in packages"
    for package in declared:
        if find_spec(package) is None:
            continue
        held = [name for name in sys.modules if name.split(".")[0] == package]
        with mock.patch.dict(sys.modules, {**dict.fromkeys(held), package: None}):
            did, _ = refusal(lambda: method.fit(), ImportError, CapabilityError)
        if did == "raises nothing" and package not in _imports(method.cls):
            yield f"packages names '{package}', and it is fitted without that package"


# ----------------------------------------------------------------------------------------------------------------------

_ABSENT = object()


def _without(method: Method) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each need that the base class can miss, and what a fit without it is given."""
    needs, inputs = method.claims.needs, method.world.inputs(method.build())
    if "text_encoder" in needs:
        yield "text_encoder", {"backbone": None}
    if "unlabeled" in needs:
        yield "unlabeled", {"unlabeled": None}
    if "raw_features" in needs:
        yield "raw_features", {"support": replace(inputs["support"], raw_norms=False)}
    if "parts" in needs:
        yield "parts", {"support": inputs["support"].without_parts()}
    for name in sorted(needs & (REQUIRED.keys() | {"pixels"})):
        held = "images" if name == "pixels" else name
        yield name, {"resources": {key: value for key, value in inputs["resources"].items() if key != held}}


def _logits_without(method: Method, name: str) -> Tensor | None:
    """Logits of the test images with one part of `at_predict` taken away; None where it cannot be taken."""
    adapter, items = method.loaded(), method.world.items["test"]
    towers = adapter.adapted(method.backbone)
    if name == "text_encoder":
        adapter._attached = None
        return method.world.logits(adapter)
    seen, extras = method.world.seen(adapter, items, towers)
    if name == "features":
        if "parts" in method.claims.at_predict:
            return None
        generator = torch.Generator().manual_seed(3)
        seen = replace(seen, features=seen.features[torch.randperm(len(seen), generator=generator)])
        return method.world.logits_of(adapter, seen, extras)
    return method.world.logits_of(adapter, seen, extras, without={"further_backbones": "further"}.get(name, name))


class _Results:
    """What a method gives with some options: the same are fitted once, which most options are compared with."""

    def __init__(self, method: Method):
        self.method = method
        self._fits: dict[tuple[World, str, tuple[str, ...]], tuple[Adapter, Tensor]] = {}

    def change(self, options: Mapping[str, Any], world: World) -> bool:
        """Whether options change a result, as `differ`; those that are refused do not."""
        try:
            return self.differ({}, options, world)
        except (ConfigError, CapabilityError):
            return False

    def differ(self, one: Mapping[str, Any], other: Mapping[str, Any], world: World | None = None) -> bool:
        """Whether options change the logits of a few test images or, of a method that can, those of new classes."""
        fits = [self._of(options, world or self.method.world) for options in (one, other)]
        if not _alike(*(logits for _, logits in fits)):
            return True
        if "new_classes" not in self.method.claims.can:
            return False
        moved = [_of_new_classes(self.method, adapter) for adapter, _ in fits]
        return any(logits is None for logits in moved) or not _alike(*moved)

    def _of(self, options: Mapping[str, Any], world: World) -> tuple[Adapter, Tensor]:
        own = dict(options)
        also = tuple(own.pop("also", ()))
        place = world, self._all(own), also  # what is given as it is anyway is no other fit
        if place not in self._fits:
            shared = place == (self.method.world, self._all({}), ())
            adapter = self.method.fitted.adapter if shared else self.method.fit(world, options=own, also=also).adapter
            self._fits[place] = adapter, world.logits(adapter, world.items["test"][:FEW])
        return self._fits[place]

    def _all(self, options: Mapping[str, Any]) -> str:
        built = self.method.build(**options)
        return repr([getattr(built, each.name) for each in options_of(self.method.cls)])


def _same_with(method: Method, options: Mapping[str, Any]) -> bool | None:
    """Whether the method gives the same with other options; None where they are refused."""
    try:
        adapter = method.fit(options=options).adapter
    except (ConfigError, CapabilityError):
        return None
    logits = method.world.logits(adapter, method.world.items["test"][:FEW])
    return torch.allclose(logits, method.logits[:FEW], rtol=SAME, atol=SAME)


def _of_new_classes(method: Method, adapter: Adapter) -> Tensor | None:
    """Logits of classes that it never saw; None where it refuses."""
    other = world_of(method.backbone, 4, 1, 3)
    try:
        return other.logits(adapter.for_classes(method.backbone, other.names, classifier=other.classifier))
    except CapabilityError:
        return None


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=COUNTS, atol=COUNTS)


def _imports(cls: type) -> set[str]:
    """Top-level packages that the module of a class imports, anywhere in it."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    except (OSError, TypeError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names
