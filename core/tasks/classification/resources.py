"""What a recipe's `resources` name, read and encoded for the methods that need it; a base run is one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.adapter_file import read_adapter_file
from ...contracts.backbone import Backbone
from ...contracts.features import PRE_PROJECTION, FeatureSet
from ...contracts.items import spoken
from ...contracts.parts import StoredViews, part_of
from ...contracts.prepared import PreparedData
from ...contracts.recipe import Recipe
from ...contracts.resources import (
    REQUIRED,
    BasePredictions,
    Detections,
    FurtherBackbone,
    PatchTokens,
    PreProjection,
    TextPool,
)
from ...data.caption_pool import lines_of, read_caption_pool
from ...errors import CapabilityError, ConfigError, DataError, UnknownNameError, did_you_mean
from ...features.batches import logits_of
from ...prompts.descriptions import read_descriptions, read_pair_attributes, read_synonyms, read_word_sentences
from ...registry import adapter_class, catalogue, load_adapter
from ...runs.folder import Run

GIVEN = ("captions", "boxes", "support_folder", "synonyms", "ctx", "further_backbones", "keys", "base")
GIVEN += ("attributes", "pair_attributes", "vocabulary", "realign_prompts")
"""What `--resource NAME=...` may name; `descriptions` is a key of the recipe."""
TOWER_NEEDS = frozenset(
    {"text_encoder", "images", "pixels", "pre_projection", "captions", "support_folder", "boxes", "synonyms", "ctx"}
    | {"attributes", "pair_attributes", "vocabulary", "realign_prompts", "patch_tokens"}
)
"""What a features file cannot give, or has no towers for."""


def check_resources(
    resources: Mapping[str, Any], adapters: Sequence[Adapter], besides: frozenset[str] = frozenset()
) -> None:
    """Refuse names that no fit uses and files that are not there.

    Args:
        besides: what is used besides, by no adapter.

    Raises:
        UnknownNameError: no resource has that name. ConfigError: no adapter uses it, or there is no such file.
    """
    used = besides.union(*(adapter.needs | adapter.optional for adapter in adapters))
    _check_given(resources, used, ", ".join(adapter.name for adapter in adapters), others=True)


def check_at_prediction(adapter: Adapter, all_given: Mapping[str, Any], anew: Mapping[str, str] | None) -> None:
    """The same of a fitted adapter: what its fit alone needed may be gone, but nothing idle may be given anew.

    Args:
        all_given: the run's own, and what is given now.
        anew: what is given now.
    """
    _check_given(anew or {}, adapter.at_predict, f"{adapter.name}, once fitted,")
    needed = {name: value for name, value in all_given.items() if name in adapter.at_predict}
    _check_given(needed, adapter.at_predict, adapter.name, "; if it was moved, give its new path")


def _check_given(
    resources: Mapping[str, Any], used: frozenset[str], who: str, cure: str = "", others: bool = False
) -> None:
    """Args: cure: where a file is not there. others: name the methods that use what is of no use here."""
    for name, value in resources.items():
        flag = name.replace("_", "-")
        if name not in GIVEN:
            raise UnknownNameError(f"--resource {flag}: no resource has that name; {did_you_mean(name, GIVEN)}")
        if name not in used:
            instead = f", or take {_takers(name)}" if others else ""
            raise ConfigError(f"--resource {flag}: {who} does not use it; omit it{instead}")
        if name not in ("further_backbones", "keys") and not Path(str(value)).exists():
            raise ConfigError(f"--resource {flag}={value}: no such file or folder{cure}")


def _takers(name: str) -> str:
    """The methods that use a resource, in words."""
    classes = {each: adapter_class(each) for each in sorted(catalogue.adapters())}
    *first, last = [each for each, cls in classes.items() if name in cls.needs | cls.optional]
    return f"{', '.join(first)} or {last}" if first else last


def check_needs(prepared: PreparedData, adapter: Adapter) -> None:
    """Refuse an adapter whose needs cannot be met, before anything is encoded.

    Raises:
        CapabilityError: it needs images or towers and there are none, other towers, or a resource that is not given.
    """
    needs, backbone = adapter.needs & TOWER_NEEDS, prepared.backbone
    resources = {**prepared.given, "descriptions": prepared.descriptions}
    if backbone is not None:
        adapter.check_towers(backbone)
    elif used := sorted(TOWER_NEEDS & adapter.optional & resources.keys()):
        raise CapabilityError(
            f"--resource {used[0].replace('_', '-')}: a features file has no backbone to read it with; "
            "give --data and --backbone"
        )
    elif (pool := part_of(adapter, StoredViews)) is not None and pool.fresh:
        raise CapabilityError(
            "option fresh_views: new views need the images themselves, which a features file does not have; give "
            "--data and --backbone, or omit it"
        )
    elif needs:
        what = "the text tower" if needs <= {"text_encoder", "captions"} else "the images themselves"
        raise CapabilityError(
            f"adapter '{adapter.name}' needs {what}, which a features file does not have; give --data and --backbone"
        )
    for name in ("descriptions", *GIVEN):
        if name in adapter.needs and resources.get(name) is None:
            place = {"further_backbones": "SPEC,SPEC", "support_folder": "DIR", "base": "RUN"}.get(name, "FILE")
            raise CapabilityError(
                f"adapter '{adapter.name}' needs {REQUIRED[name]}; give --resource {name.replace('_', '-')}={place}"
            )


@dataclass
class Resources:
    """The recipe's resources on a data set; each is read and encoded once, by demand."""

    prepared: PreparedData

    def collect(self, adapter: Adapter, shots) -> dict[str, Any]:
        """What `adapter.fit(resources=)` gets of those, and what the data itself gives."""
        used = adapter.needs | adapter.optional
        collected: dict[str, Any] = {"templates": list(self.prepared.templates)}
        texts = ("attributes", "pair_attributes", "vocabulary", "realign_prompts")
        for name in ("captions", "support_folder", "synonyms", "boxes", "ctx", *texts):
            if name in used and self._given(name) is not None:
                collected[name] = getattr(self, name)
        if "support_folder" in collected and self.support_captions is not None:
            collected["support_captions"] = self.support_captions
        if "descriptions" in used and self.prepared.descriptions:
            collected["descriptions"] = self.descriptions
        if "further_backbones" in used and self.further:
            collected["further_backbones"] = self._further_features(shots)
        if "keys" in used and self.keyed is not None:
            collected["keys"] = self._beside(self._given("keys"), self.keyed, shots)
        if "pre_projection" in used:
            collected["pre_projection"] = self._pre_projection(adapter, shots)
        if "patch_tokens" in used:
            collected["patch_tokens"] = self._patch_tokens(shots)
        if used & {"pixels", "images"}:
            collected["images"] = self.prepared.training_images(shots)
        return collected

    @cached_property
    def captions(self) -> TextPool:
        return self._pool(read_caption_pool(self._given("captions")))

    @cached_property
    def synonyms(self):
        return read_synonyms(self._given("synonyms"), self.prepared.class_names)

    @cached_property
    def descriptions(self) -> tuple[tuple[str, ...], ...]:
        return self._sentences(self.prepared.descriptions)

    @cached_property
    def attributes(self) -> tuple[tuple[str, ...], ...]:
        return self._sentences(self._given("attributes"))

    @cached_property
    def pair_attributes(self) -> dict[str, dict[str, tuple[str, ...]]]:
        return read_pair_attributes(self._given("pair_attributes"), self.prepared.class_names)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        path = Path(self._given("vocabulary"))
        words = tuple(dict.fromkeys(word for line in lines_of(path) if (word := " ".join(line.split()))))
        if len(words) < 2:
            raise DataError(f"{path}: {len(words)} words; give a text file of at least two, one word per line")
        return words

    @cached_property
    def realign_prompts(self) -> dict[str, tuple[str, ...]]:
        return read_word_sentences(self._given("realign_prompts"))

    @cached_property
    def boxes(self) -> Detections | None:
        """Of all images of the data set; None where no file is given."""
        if self._given("boxes") is None:
            return None
        from ...data.detections import read_detections

        return read_detections(self._given("boxes"), [item.id for item in self.prepared.data.items])

    @cached_property
    def ctx(self) -> Tensor:
        """The context of another run, on the same backbone."""
        path = Path(self._given("ctx"))
        file = Run.open(path).adapter_path if path.is_dir() else path
        header, tensors = read_adapter_file(file)
        if "ctx" not in tensors:
            raise DataError(
                f"{file}: adapter '{header['adapter']}' learned no context; give a run of coop, for instance"
            )
        backbone = self.prepared.backbone
        if header.get("backbone") != backbone.fingerprint:
            raise CapabilityError(
                f"{file}: its context was learned on another backbone than '{backbone.spec}'; use the backbone of that "
                "run"
            )
        return tensors["ctx"].to(backbone.device)

    @cached_property
    def support_folder(self) -> FeatureSet:
        """Images found or made for class names: a data set of the domain's, its classes some of the data's."""
        path = self._given("support_folder")
        # A copy reads it, for domains of other packages that note something of what they read.
        data = copy(self.prepared.domain).read(path, self.prepared.task, **self.prepared.reading)
        if data.kind != "labels":
            raise DataError(f"{path}: holds {data.kind}; give one folder of images for each class, named like it")
        index_of = {spoken(name).casefold(): i for i, name in enumerate(self.prepared.class_names)}
        for name in data.class_names:
            if spoken(name).casefold() not in index_of:
                near = did_you_mean(name, self.prepared.class_names)
                raise DataError(f"{path}: '{name}' is not a class of the data; {near}")
        number = {index: index_of[spoken(name).casefold()] for index, name in enumerate(data.class_names)}
        items = [item.restricted(number).with_(split="") for item in data.items]
        relabelled = replace(data, items=items, class_names=self.prepared.class_names)
        on_folder = replace(self.prepared, data=relabelled, skipped=[])  # counted against this folder's images alone
        self._folder_items = {item.id: item for item in items}
        features = on_folder.features(items, "support folder")
        self.prepared.skipped.extend(on_folder.skipped)
        return features

    @cached_property
    def support_captions(self) -> TextPool | None:
        """The .txt beside each image of the support folder, where every one of them has one."""
        files = [self._folder_items[i].source.with_suffix(".txt") for i in self.support_folder.ids]
        if not all(file.is_file() for file in files):
            return None
        return self._pool(tuple(" ".join(" ".join(lines_of(file)).split()) for file in files))

    @cached_property
    def further(self) -> list[Any]:
        """The data set on each further backbone."""
        return [self.prepared.on_further(spec) for spec in further_specs(self.prepared.given)]

    @cached_property
    def keyed(self) -> Any | None:
        """The data set on the backbone of a cache's keys; None where none is given."""
        return None if self._given("keys") is None else self.prepared.on_further(self._given("keys"))

    def _further_features(self, shots) -> tuple[FurtherBackbone, ...]:
        specs = further_specs(self.prepared.given)
        return tuple(self._beside(spec, other, shots) for spec, other in zip(specs, self.further))

    def _beside(self, spec: str, other, shots) -> FurtherBackbone:
        val = None if shots.val is None else other.of_ids(shots.val.ids)
        return FurtherBackbone(spec, other.of_ids(shots.support.ids), val, other.classifier)

    def _pre_projection(self, adapter: Adapter, shots) -> PreProjection:
        views = int(getattr(adapter, "views", 0) or 0) if "views" in adapter.needs else 0
        encode = self.prepared.features
        how = {"seed": shots.seed, "tap": PRE_PROJECTION, "augment": shots.augment}
        support = encode(shots.items, "support images", views=views, **how)
        val = encode(shots.val_items, "validation images", tap=PRE_PROJECTION) if shots.val_items else None
        return PreProjection(support, val)

    def _patch_tokens(self, shots) -> PatchTokens:
        """Of the support; those of val and test are stored with them, for later."""
        tokens = self.prepared.patch_tokens
        items = [*shots.items, *shots.val_items, *self.prepared.test_items]
        self.prepared.counts.computed += tokens.fill(items, self.prepared.reporter)
        return tokens.of(shots.items, 1 if shots.support.parts is None else shots.support.parts.shape[1])

    def _pool(self, texts: tuple[str, ...]) -> TextPool:
        features = self.prepared.store.text_features(self.prepared.backbone, texts)
        return TextPool(texts, features.to(self.prepared.backbone.device))

    def _sentences(self, path: Any) -> tuple[tuple[str, ...], ...]:
        """Those that a file has for each class."""
        names = list(self.prepared.class_names)
        sentences = read_descriptions(path, names, others=True)
        return tuple(tuple(sentences[name]) for name in names)

    def _given(self, name: str) -> str | None:
        return self.prepared.given.get(name)


def further_specs(resources: Mapping[str, Any]) -> list[str]:
    """Backbones, or features files, comma-separated or in a list."""
    listed = resources.get("further_backbones")
    parts: Iterable[str] = listed.split(",") if isinstance(listed, str) else listed or ()
    return [str(part).strip() for part in parts if str(part).strip()]


@dataclass
class BaseLogits:
    """The fitted adapter of a run, asked for its logits of other images.

    Attributes:
        path: where the run lies, as it was given.
        run: its folder.
        adapter: as it was fitted.
        recipe: its own.
    """

    path: str
    run: Run
    adapter: Adapter
    recipe: Recipe
    _made: dict[tuple[str, ...], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | Path, backbone: Backbone | None, device: torch.device) -> BaseLogits:
        """The run at a path.

        Args:
            backbone: that of the fit that starts from it; None where there is a features file.

        Raises:
            DataError: no finished run lies there. ConfigError: it starts from another run itself.
            CapabilityError: it has several labels per image, or is of another backbone.
        """
        try:
            run = Run.open(path)
        except DataError as error:
            raise DataError(f"--resource base={error}") from error
        recipe = Recipe.of(run.info.recipe)
        if "base" in recipe.resources:
            raise ConfigError(f"--resource base={path}: it started from another run itself; give that one, or another")
        adapter = load_adapter(run.adapter_path, backbone).to(device)
        if adapter.multilabel_:
            raise CapabilityError(f"--resource base={path}: has several labels per image; give a run that has one")
        return cls(str(path), run, adapter, recipe)

    @classmethod
    def of_data(cls, prepared: PreparedData, device: torch.device) -> BaseLogits | None:
        """The run that the recipe of prepared data names; None where it names none.

        Raises:
            As `open`; CapabilityError: it was fitted on other features.
        """
        if prepared.given.get("base") is None:
            return None
        base = cls.open(prepared.given["base"], prepared.backbone, device)
        width = prepared.classifier.weights.shape[1]
        theirs, ours = base.adapter.backbone_, prepared.made_by
        if width != base.adapter.dim_:
            theirs, ours = f"{base.adapter.dim_} wide", f"{width}"
        elif not (theirs and ours) or theirs == ours:
            return base
        raise CapabilityError(
            f"--resource base={base.path}: was fitted on features of another backbone ({theirs}; these: {ours}); "
            "give a run on the same backbone"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json of the fit that starts from it says of it."""
        digest = hashlib.sha256(self.run.adapter_path.read_bytes()).hexdigest()
        return {"path": str(self.run.path), "adapter": self.adapter.name, "sha256": digest}

    def check_is(self, facts: Mapping[str, Any]) -> None:
        """Raise the DataError of another run than the one that `facts` are of."""
        if facts.get("sha256") != self.facts["sha256"]:
            raise DataError(
                f"--resource base={self.path}: not the run that this one started from ('{facts.get('adapter')}' at "
                f"{facts.get('path')}); give the path of that run, or fit again"
            )

    def predictions(self, prepared: PreparedData, features: FeatureSet) -> BasePredictions:
        """What a fit that starts from it is given, in the order of the data's classes; see `logits`."""
        return BasePredictions(self.adapter.name, self.logits(prepared, features, prepared.class_names))

    def logits(self, prepared: PreparedData, features: FeatureSet, class_names: Sequence[str]) -> Tensor:
        """(N, C) of rows of prepared data, in the order of `class_names`; made once per set of images.

        Args:
            prepared: the data on the backbone of the fit.
            features: some of its rows, with their ids.
        """
        if features.ids not in self._made:
            own = replace(prepared, given=self.recipe.resources)
            moved = own if own.backbone is None else own.on(self.adapter.adapted(own.backbone))
            seen = features if moved is own else moved.of_ids(features.ids, parts="parts" in self.adapter.at_predict)
            if seen.ids != features.ids:
                raise DataError(
                    f"--resource base={self.path}: its towers give NaN or infinity for some images; give another run"
                )
            self._made[features.ids] = logits_of(self.adapter, moved.batches(self.adapter, seen), len(seen))
        self.check_classes(class_names)
        have = list(self.adapter.class_names_)
        return self._made[features.ids][:, [have.index(name) for name in class_names]]

    def on_other_images(self) -> BaseLogits:
        """The same run, to be asked of images that may have the ids of those before."""
        return replace(self, _made={})

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raise the ConfigError of a run whose classes are not these, in whatever order."""
        have, want = list(self.adapter.class_names_), list(class_names)
        lacks, further = sorted(set(want) - set(have)), sorted(set(have) - set(want))
        if lacks or further:
            which = f"lacks '{lacks[0]}'" if lacks else f"also has '{further[0]}'"
            raise ConfigError(
                f"--resource base={self.path}: its classes are not those of the data (it {which}); give a run that was "
                "fitted on the same classes"
            )
