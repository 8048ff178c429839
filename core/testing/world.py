"""A small world in which any adapter can be fitted: drawn images, small towers, and each resource of the contract."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.adapter import Adapter, FitReport
from ..contracts.backbone import Backbone
from ..contracts.features import PRE_PROJECTION, PROJECTED, Detection, FeatureSet, TextClassifier
from ..contracts.images import TrainingImages
from ..contracts.items import Item
from ..contracts.parts import RandomCrops, part_of
from ..contracts.resources import BasePredictions, FurtherBackbone, HeldPatchTokens, PreProjection, TextPool
from ..features.batches import Extras, batches, logits_of
from ..prompts.classifier import build_classifier, fill
from .contract import differences
from .drawn_samples import ABOUT, AGAINST, TEMPLATES, draw_square, drawn_item, texts_about

REPLACING = frozenset({"support_folder", "ctx", "base", "keys"})
"""Resources that take the place of what is learned from, or of where options say to start."""
NO_LABELS = "no_labels"
VIEWS = 2


class Watched(dict):
    """Resources that remember which of them were asked for, there or not."""

    def __init__(self, content: Mapping[str, Any]):
        super().__init__(content)
        self.read: set[str] = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.read.add(name)
        return super().__contains__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)


@dataclass
class WorldFit:
    """A fitted adapter, and what its fit did besides.

    Attributes:
        changed: what it was given and changed ("support.features", "the backbone").
        read: names of resources that its `_fit` asked for.
    """

    adapter: Adapter
    report: FitReport
    changed: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)


@dataclass(eq=False)
class World:
    """C classes of drawn images on one backbone. What it gives to a fit is copied, so that none can spoil another's.

    Args:
        several: whether images have several labels; one of them is unknown.
    """

    backbone: Backbone
    classifier: TextClassifier
    items: dict[str, list[Item]]
    several: bool = False
    _parts_of: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, backbone: Backbone, classes: int, shots: int | Sequence[int], tests: int = 12, several: bool = False
    ) -> World:
        """A world; `shots` is a number, or one per class."""
        counts = [shots] * classes if isinstance(shots, int) else list(shots)
        labels = {
            "support": [label for label, count in enumerate(counts) for _ in range(count)],
            "val": [i % min(classes, 6) for i in range(12)],
            "test": [i % min(classes, 6) for i in range(tests)],
            "folder": [i % min(classes, 6) for i in range(18)],
        }
        items = {
            split: [drawn_item(split, 10_000 * k + i, of, classes, several) for i, of in enumerate(each)]
            for k, (split, each) in enumerate(labels.items())
        }
        names = tuple(f"colour {i}" for i in range(classes))
        negative = AGAINST if several else None
        return cls(backbone, build_classifier(backbone, names, TEMPLATES, negative_templates=negative), items, several)

    @property
    def names(self) -> tuple[str, ...]:
        return self.classifier.class_names

    def transform(self, image) -> Tensor:
        return self.backbone.preprocess(False)(image)

    @torch.no_grad()
    def encode(self, items: Sequence[Item], tap: str = PROJECTED, backbone: Backbone | None = None) -> FeatureSet:
        """Features of some items, by the world's backbone or another."""
        backbone = backbone or self.backbone
        pixels = torch.stack([self.transform(draw_square(item)) for item in items])
        made = backbone.hidden(pixels) if tap == PRE_PROJECTION else backbone.encode_image(pixels, normalize=False)
        return FeatureSet(made, tap=tap, **self._known_of(items, backbone))

    @torch.no_grad()
    def encode_parts(self, items: Sequence[Item], backbone: Backbone | None = None) -> FeatureSet:
        """The same of samples with two or three parts."""
        backbone = backbone or self.backbone
        key = (backbone.fingerprint, *(item.id for item in items))
        if key not in self._parts_of:
            pixels = torch.stack([self.transform(draw_square(item, part)) for item in items for part in range(3)])
            self._parts_of[key] = backbone.encode_image(pixels, normalize=False).unflatten(0, (-1, 3))  # (N, 3, D)
        mask = torch.ones(len(items), 3, dtype=torch.bool)
        mask[[item.decode["index"] % 2 == 0 for item in items], 2] = False
        parts = self._parts_of[key].masked_fill(~mask[..., None], 0)
        return FeatureSet.of_parts(parts, mask, **self._known_of(items, backbone))

    @torch.no_grad()
    def patch_tokens(self, items: Sequence[Item], backbone: Backbone | None = None) -> Tensor:
        """(N, 3, h, w, D) of the parts of samples, those of `encode_parts`."""
        backbone = backbone or self.backbone
        key = ("patches", backbone.fingerprint, *(item.id for item in items))
        if key not in self._parts_of:
            pixels = torch.stack([self.transform(draw_square(item, part)) for item in items for part in range(3)])
            tokens, grid = backbone.image_tokens(pixels)
            self._parts_of[key] = tokens.unflatten(1, grid).unflatten(0, (-1, 3))
        there = self.encode_parts(items, backbone).parts_mask
        return self._parts_of[key].masked_fill(~there[..., None, None, None], 0)

    def fit(self, adapter: Adapter, **given: Any) -> WorldFit:
        """The adapter, fitted; `given` as for `inputs`.

        Raises:
            Whatever the fit raises.
        """
        seed, change = given.pop("seed", 1), given.pop("change", {})
        inputs = {**self._inputs(adapter, **given), **change}
        inputs["resources"] = self._with_images_of(change, inputs["resources"])
        before = {name: value for name, value in inputs.items() if name != "backbone"}
        inputs |= _copied(before)
        inputs["resources"] = watched = Watched(inputs["resources"])
        _forget_at_fit(adapter, watched)
        try:
            report = adapter.fit(**inputs, seed=seed)
        finally:
            del adapter._fit
            towers = self._restored(inputs["backbone"])
        changed = [place for name, value in before.items() for place in differences(value, inputs[name], name)]
        return WorldFit(adapter, report, changed + towers, set(watched.read))

    def inputs(self, adapter: Adapter, *, use_val: bool = True, also: Collection[str] = ()) -> dict[str, Any]:
        """What the engine gives to `adapter.fit`: what it declared, and nothing more.

        Args:
            also: which of `REPLACING` it is given too; "parts" gives methods that train towers samples of three parts,
                "no_labels" gives the test images without labels, and no support.
        """
        inputs = self._inputs(adapter, use_val=use_val, also=also)
        return {**_copied({name: inputs[name] for name in inputs if name != "backbone"}), "backbone": self.backbone}

    def _inputs(self, adapter: Adapter, *, use_val: bool = True, also: Collection[str] = ()) -> dict[str, Any]:
        """The same, not copied."""
        asked = (adapter.needs | adapter.optional) - (REPLACING - adapter.needs - set(also))
        kinds = {"templates"} | asked | ({"images"} if "pixels" in asked else set())
        kinds |= {"support_captions"} if "support_folder" in asked else set()
        kinds |= {"unlabeled_images"} if "unlabeled" in asked and asked & {"pixels", "images"} else set()
        sets = self._sets_with_parts if "parts" in asked else self._sets
        transductive = adapter.transductive or "unlabeled" in adapter.needs
        inputs = {
            "support": _with_views(sets["support"], adapter) if "views" in asked else sets["support"],
            "classifier": self.classifier,
            "val": sets["val"] if use_val else None,
            "unlabeled": sets["test"].without_labels() if transductive else None,
            "resources": {name: make() for name, make in self.resources.items() if name in kinds},
        }
        if NO_LABELS in also:
            inputs |= {"support": None, "val": None, "unlabeled": sets["test"].without_labels()}
        if "parts" in also and "images" in inputs["resources"]:
            inputs["resources"]["images"] = self._clips()
        if "views" in asked and "pre_projection" in inputs["resources"]:
            hidden = inputs["resources"]["pre_projection"]
            inputs["resources"]["pre_projection"] = replace(hidden, support=_with_views(hidden.support, adapter))
        return {**inputs, "backbone": self.backbone}

    def _with_images_of(self, change: Mapping[str, Any], resources: dict[str, Any]) -> dict[str, Any]:
        """The resources with the images of those rows that a check changed, if it leaves the resources as they are."""
        by_id = {item.id: item for items in self.items.values() for item in items}
        made = dict(resources)
        for rows, images in (("support", "images"), ("unlabeled", "unlabeled_images")):
            if rows in change and images in resources and "resources" not in change:
                ids = () if change[rows] is None else change[rows].ids
                if ids is not None:
                    made[images] = replace(resources[images], items=[by_id[i] for i in ids])
        return made

    def logits(self, adapter: Adapter, items: Sequence[Item] | None = None) -> Tensor:
        """(N, C) of the test images, or of some, as the engine asks for them."""
        items = self.items["test"] if items is None else items
        return self.logits_of(adapter, *self.seen(adapter, items, adapter.adapted(self.backbone)))

    def logits_of(self, adapter: Adapter, features: FeatureSet, extras: Extras, without: str | None = None) -> Tensor:
        """The same of rows of `seen`, one field of their batches taken away if asked."""
        rows = batches(adapter, features, extras)
        if without is not None:
            rows = (replace(batch, **{without: None}) for batch in rows)
        return logits_of(adapter, rows, len(features))

    def seen(self, adapter: Adapter, items: Sequence[Item], towers: Backbone) -> tuple[FeatureSet, Extras]:
        """Features of items by `towers`, and how to get what else `adapter` looks at."""
        mirrored = _mirror(self.backbone.embed_dim)
        extras = Extras(
            items=items,
            load=draw_square,
            transform=self.transform,
            encode=lambda some, tap: self.encode(some, tap, towers),
            further=[lambda some, tap: _through(self.encode(some), mirrored)],
            keys=lambda some, tap: _through(self.encode(some), mirrored),
            boxes=self._boxes,
            base=lambda features, names: self._of_other(items),
            patches=lambda some: self.patch_tokens(some, towers),
        )
        encode = self.encode_parts if "parts" in adapter.at_predict else self.encode
        return encode(items, backbone=towers), extras

    @cached_property
    def resources(self) -> dict[str, Callable[[], Any]]:
        """Everything that an adapter may ask for, by name; each is made once, when it is called."""
        names = {
            "templates": lambda: list(TEMPLATES),
            "descriptions": lambda: tuple(tuple(fill(ABOUT, name)) for name in self.names),
            **texts_about(self.names),
            "captions": lambda: self._pool([f"drawing {i} of {name}" for name in self.names[:20] for i in range(3)]),
            "boxes": lambda: self._boxes,
            "further_backbones": lambda: (self._further(),),
            "keys": self._further,
            "images": self._images,
            "unlabeled_images": lambda: replace(self._images(), items=self.items["test"], val=()),
            "support_folder": lambda: self.encode(self.items["folder"]),
            "support_captions": lambda: self._pool([f"{item.id} shown" for item in self.items["folder"]]),
            "base": lambda: BasePredictions("other", self._of_other(self.items["test"])),
        }
        if "hidden" in self.backbone.capabilities:
            names["pre_projection"] = self._hidden
        if "image_tokens" in self.backbone.capabilities:
            names["patch_tokens"] = lambda: HeldPatchTokens(self.patch_tokens(self.items["support"]))
        if "prompt" in self.backbone.capabilities:
            names["ctx"] = self._context
        return {name: cache(make) for name, make in names.items()}

    @cached_property
    def _boxes(self) -> dict[str, list[Detection]]:
        everything = [item for items in self.items.values() for item in items]
        return {
            item.id: [Detection((2.0, 3.0, 15.0, 12.0), 0.9, self.names[(item.decode["of"] or [0])[0]])]
            for item in everything
        }

    @torch.no_grad()
    def _pool(self, texts: list[str]) -> TextPool:
        return TextPool(tuple(texts), self.backbone.encode_text(texts, normalize=False))

    def _of_other(self, items: Sequence[Item]) -> Tensor:
        """(N, C) logits of some items by another adapter, half zero-shot's and half of their true classes."""
        features = self.encode(items)
        return 0.5 * self.classifier.logits(features.unit) + torch.eye(len(self.names))[features.labels]

    def _further(self) -> FurtherBackbone:
        matrix = _mirror(self.backbone.embed_dim)
        support, val = (_through(self._sets[name], matrix) for name in ("support", "val"))
        return FurtherBackbone(
            "other", support, val, TextClassifier(self.classifier.weights @ matrix, class_names=self.names)
        )

    def _images(self) -> TrainingImages:
        return TrainingImages(
            self.items["support"],
            draw_square,
            self.backbone.preprocess(True),
            self.backbone.preprocess(False),
            self.classifier.texts,
            [fill(AGAINST, name) for name in self.names] if self.several else None,
            list(TEMPLATES),
            self.items["val"],
        )

    def _clips(self) -> TrainingImages:
        """The same samples with three parts each, for towers that see them together."""
        train, plain = self.backbone.preprocess(True), self.backbone.preprocess(False)
        return replace(
            self._images(),
            load=lambda item: np.stack([draw_square(item, part) for part in range(3)]),
            train_transform=lambda clip, seed=None: torch.stack([train(each, seed=seed) for each in clip]),
            eval_transform=lambda clip: torch.stack([plain(each) for each in clip]),
        )

    def _hidden(self) -> PreProjection:
        support, val = (self.encode(self.items[name], PRE_PROJECTION) for name in ("support", "val"))
        return PreProjection(support, val)

    def _context(self) -> Tensor:
        width = self.backbone.embed_tokens(self.backbone.tokenize(["a"])).shape[-1]
        return 0.02 * torch.randn(4, width, generator=torch.Generator().manual_seed(2))

    @cached_property
    def _sets(self) -> dict[str, FeatureSet]:
        return {split: self.encode(items) for split, items in self.items.items() if split != "folder"}

    @cached_property
    def _sets_with_parts(self) -> dict[str, FeatureSet]:
        return {split: self.encode_parts(items) for split, items in self.items.items() if split != "folder"}

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.backbone.model.state_dict().items()}

    def _known_of(self, items: Sequence[Item], backbone: Backbone) -> dict[str, Any]:
        labels = torch.tensor([item.class_label() for item in items])
        ids = tuple(item.id for item in items)
        return {"labels": labels, "class_names": self.names, "ids": ids, "backbone": backbone.fingerprint}

    def _restored(self, backbone: Backbone | None) -> list[str]:
        """The names of changed weights; they are put back."""
        if backbone is not self.backbone:
            return []
        held = backbone.model.state_dict()
        changed = [name for name, value in self._weights.items() if not torch.equal(held[name], value)]
        if changed:
            backbone.model.load_state_dict(self._weights)
        learning = [name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad]
        backbone.model.requires_grad_(False).eval()
        return [f"the backbone's {name}" for name in changed] + [f"what trains of the backbone: {n}" for n in learning]


@cache
def world_of(
    backbone: Backbone, classes: int = 3, shots: int | tuple[int, ...] = 3, tests: int = 12, several: bool = False
) -> World:
    """`World.of`, each made once."""
    return World.of(backbone, classes, shots, tests, several)


def _copied(inputs: dict[str, Any]) -> dict[str, Any]:
    """Deep; the texts of the classes, a tensor each of maybe a thousand, are copied together."""
    memo: dict[int, Any] = {}
    if inputs.get("classifier") is not None:
        each = inputs["classifier"].prototypes
        memo = dict(zip(map(id, each), torch.cat(each).split([len(one) for one in each])))
    return copy.deepcopy(inputs, memo)


def _forget_at_fit(adapter: Adapter, watched: Watched) -> None:
    """What the base class asks for, to say what is missing, is not what the method reads."""
    fit = adapter._fit

    def fit_anew(*args, **kwargs):
        watched.read.clear()
        return fit(*args, **kwargs)

    adapter._fit = fit_anew


def _with_views(features: FeatureSet, adapter: Adapter) -> FeatureSet:
    """With views that differ a little, less where the method asks for a crop of its own."""
    noise = torch.randn(len(features), VIEWS, features.dim, generator=torch.Generator().manual_seed(0))
    crops = part_of(adapter, RandomCrops)
    asked = None if crops is None else crops.crop_scale
    spread = 0.1 if asked is None else 0.1 * (2 - sum(asked))
    return replace(features, views=features.features[:, None] + spread * features.features.std() * noise)


def _mirror(dim: int) -> Tensor:
    """(dim, 10) orthonormal columns, fewer where dim is: what makes another backbone of one."""
    generator = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(dim, min(dim, 10), generator=generator))[0]


def _through(features: FeatureSet, matrix: Tensor) -> FeatureSet:
    return replace(features, features=features.features @ matrix, views=None)
