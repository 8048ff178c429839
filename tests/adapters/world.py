"""A small world in which every adapter can be fitted: drawn images, tiny towers, and each resource of the contract."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from vladapt import FeatureSet, Item, Label, TextClassifier, build_adapter, build_classifier
from vladapt.core.contracts import TrainingImages
from vladapt.core.contracts.features import PRE_PROJECTION, PROJECTED, Detection
from vladapt.core.contracts.resources import FurtherBackbone, PreProjection, TextPool
from vladapt.core.features.batches import Extras, batches, logits_of
from vladapt.core.registry import adapter_class

TEMPLATES = ("a {} square.", "a picture of {}.")
VIEWS = 2
QUICK = {
    "epochs": 2,
    "views": VIEWS,
    "iterations": 20,
    "steps": 20,
    "select": "last",
    "n_views": 4,
    "n_crops": 3,
}
"""Options that make any method fast, of those that it has."""

OF_ONE = {"lp-plus-plus": {"views": 1}}


def quick_options(name: str, **options) -> dict:
    known = {field.name for field in fields(adapter_class(name)) if field.init}
    quick = {option: value for option, value in QUICK.items() if option in known}
    return {**quick, **OF_ONE.get(name, {}), **options}


def draw(item: Item) -> np.ndarray:
    """A noisy square whose colour says its class."""
    index, label = item.decode["index"], item.decode["of"]
    colour = np.random.default_rng(label).integers(40, 215, 3)
    noise = np.random.default_rng(1000 + index).integers(-40, 40, (22, 20, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


@dataclass
class World:
    """C classes of drawn images on one backbone."""

    backbone: object
    classifier: TextClassifier
    items: dict[str, list[Item]]

    @classmethod
    def of(cls, backbone, classes: int, shots: int | list[int], tests: int = 12) -> World:
        counts = [shots] * classes if isinstance(shots, int) else shots
        names = tuple(f"colour {i}" for i in range(classes))
        drawn = {
            "support": [label for label, count in enumerate(counts) for _ in range(count)],
            "val": [i % min(classes, 6) for i in range(12)],
            "test": [i % min(classes, 6) for i in range(tests)],
        }
        items = {
            split: [
                Item(f"{split}-{i}", Path(__file__), {"index": 10_000 * k + i, "of": of}, Label(of))
                for i, of in enumerate(labels)
            ]
            for k, (split, labels) in enumerate(drawn.items())
        }
        return cls(backbone, build_classifier(backbone, names, TEMPLATES), items)

    @property
    def names(self) -> tuple[str, ...]:
        return self.classifier.class_names

    def transform(self, image) -> torch.Tensor:
        return self.backbone.preprocess(False)(image)

    @torch.no_grad()
    def encode(self, items, tap: str = PROJECTED, backbone=None) -> FeatureSet:
        backbone = backbone or self.backbone
        pixels = torch.stack([self.transform(draw(item)) for item in items])
        made = backbone.hidden(pixels) if tap == PRE_PROJECTION else backbone.encode_image(pixels, normalize=False)
        ids, labels = tuple(item.id for item in items), torch.tensor([item.target.index for item in items])
        return FeatureSet(made, labels, self.names, ids=ids, backbone=backbone.fingerprint, tap=tap)

    @torch.no_grad()
    def patches(self, items) -> torch.Tensor:
        """(N, 1, h, w, D): those of images that are their only part."""
        tokens, grid = self.backbone.image_tokens(torch.stack([self.transform(draw(item)) for item in items]))
        return tokens.unflatten(1, grid)[:, None]

    def support(self, tap: str = PROJECTED) -> FeatureSet:
        """With views that differ a little."""
        plain = self.encode(self.items["support"], tap)
        noise = torch.randn(len(plain), VIEWS, plain.dim, generator=torch.Generator().manual_seed(0))
        return replace(plain, views=plain.features[:, None] + 0.1 * plain.features.std() * noise)

    def resources(self) -> dict:
        """Everything any adapter may ask for."""
        val, support = self.items["val"], self.support()
        texts = tuple(f"a drawing of {name} number {i}" for name in self.names[:20] for i in range(3))
        with torch.no_grad():
            pool = TextPool(texts, self.backbone.encode_text(list(texts), normalize=False))
        # (dim, 10) orthonormal columns: what makes another backbone of one.
        mirrored = torch.linalg.qr(torch.randn(support.dim, 10, generator=torch.Generator().manual_seed(1)))[0]
        other = TextClassifier(self.classifier.weights @ mirrored, class_names=self.names)
        return {
            "templates": list(TEMPLATES),
            "descriptions": tuple((f"{name} is drawn", f"it shows {name}") for name in self.names),
            "captions": pool,
            "synonyms": tuple(((name, 3.0), (f"{name} paint", 9.0)) for name in self.names),
            "boxes": self.boxes(),
            "further_backbones": (
                FurtherBackbone("other", _through(support, mirrored), _through(self.encode(val), mirrored), other),
            ),
            "pre_projection": PreProjection(self.support(PRE_PROJECTION), self.encode(val, PRE_PROJECTION)),
            "images": TrainingImages(
                self.items["support"],
                draw,
                self.backbone.preprocess(True),
                self.backbone.preprocess(False),
                self.classifier.texts,
                None,
                list(TEMPLATES),
                val,
            ),
        }

    def boxes(self) -> dict:
        everything = [item for items in self.items.values() for item in items]
        return {item.id: [Detection((2.0, 3.0, 15.0, 16.0), 0.9, self.names[item.target.index])] for item in everything}

    def fit(self, name: str, *, seed: int = 1, use_val: bool = True, **options):
        """A fitted adapter."""
        adapter = build_adapter(name, **quick_options(name, **options))
        given = self.resources()
        wanted = adapter.needs | adapter.optional
        kept = {key: value for key, value in given.items() if key in wanted or key == "templates"}
        if wanted & {"pixels", "images"}:
            kept["images"] = given["images"]
        self.report = adapter.fit(
            self.support(),
            self.classifier,
            val=self.encode(self.items["val"]) if use_val else None,
            unlabeled=self.encode(self.items["test"]).without_labels() if adapter.transductive else None,
            backbone=self.backbone,
            resources=kept,
            seed=seed,
        )
        return adapter

    def logits(self, adapter, items=None) -> torch.Tensor:
        """Of the test images, as the engine asks for them."""
        items = self.items["test"] if items is None else items
        towers = adapter.adapted(self.backbone)
        mirrored = torch.linalg.qr(
            torch.randn(self.backbone.embed_dim, 10, generator=torch.Generator().manual_seed(1))
        )[0]
        extras = Extras(
            items=items,
            load=draw,
            transform=self.transform,
            encode=lambda some, tap: self.encode(some, tap, towers),
            further=[lambda some, tap: _through(self.encode(some), mirrored)],
            boxes=self.boxes(),
        )
        seen = self.encode(items, PROJECTED, towers)
        return logits_of(adapter, batches(adapter, seen, extras), len(seen))


def _item(split: str, index: int, label: int) -> Item:
    return Item(f"{split}-{index}", Path(__file__), {"index": index, "of": label}, Label(label))


def _through(features: FeatureSet, matrix: torch.Tensor) -> FeatureSet:
    return replace(features, features=features.features @ matrix, views=None)
