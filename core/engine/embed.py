"""`embed`: features of a data set or of loose images, in the layout that `--features` reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ..contracts.backbone import Backbone
from ..contracts.features import FeatureSet, TextClassifier
from ..contracts.items import Item, items_of
from ..contracts.options import keywords, options_from
from ..contracts.recipe import Recipe
from ..contracts.task import IMAGE_KEYS, Task, refuse_unused
from ..data.unlabelled import images_of, readable
from ..errors import CapabilityError, ConfigError
from ..features.bag_files import write_bag
from ..recipes.asked_for import words_of_recipe
from ..recipes.resolve import task_on_images
from ..runs.sections import errors_worded
from ..runtime.distributed import is_main, together
from ..runtime.files import all_or_none, place_of, remove_stale_partials, replacing
from ..runtime.progress import Reporter
from ..tasks.classification.task import on_backbone, prepared_images
from .options import BAGS, PARQUET, EmbedOptions, refuse_of_shards

SUFFIXES = (".safetensors", ".npz")
OF_SETS = IMAGE_KEYS | {"split_seed", "classes", "templates", "descriptions"}
"""Recipe keys that are used for a labelled set."""


@dataclass
class Embedded:
    """What was written: the file, how many images, how wide, what was left out; how many images' patch tokens are
    stored now that were not."""

    file: Path
    images: int
    dim: int
    skipped: list[tuple[str, str]]
    encoded: int
    from_store: int
    patches_stored: int = 0


@dataclass
class EmbeddedShards:
    """What was written as shards: the folder, how many images, how wide, how many shards, how many of them were there
    before, and how many images could not be read, of which `skipped` names the first."""

    folder: str
    images: int
    dim: int
    shards: int
    shards_before: int
    unreadable: int
    skipped: list[tuple[str, str]]


@keywords(EmbedOptions)
@errors_worded(words_of_recipe)
def embed(
    recipe: Recipe,
    out: str | Path,
    *,
    images: Sequence[str | Path] = (),
    backbone: str | Backbone | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> Embedded | EmbeddedShards:
    """Write features of the recipe's data set (with labels, splits and text features), or of loose images.

    Args:
        recipe: data, domain and backbone.
        out: a .safetensors or .npz file; with `as_="parquet"` a folder, or a URL of one; with `as_="bags"` a folder.
        images: files or folders without labels; then the recipe's data is not read. As shards also tars, Parquet files,
            and URLs of these.
        backbone: in place of the recipe's: a spec, or `Backbone.from_module`.
        given: options of `EmbedOptions`. Features of patches stay in the feature store, where methods find them.

    Raises:
        ConfigError: another file ending. DataError: nothing readable, or no room for patch tokens.
        CapabilityError: no sample has parts or tiles, or the tower gives no patch tokens.
    """
    recipe, asked = recipe.with_backbone(backbone), options_from(EmbedOptions, given, "embed")
    if asked.as_ == PARQUET:
        refuse_unused(recipe, IMAGE_KEYS if images else OF_SETS, lambda key: "embed does not use it; omit it")
        return together(lambda: _as_shards(recipe, str(out), images, asked, reporter or Reporter(quiet=True)))
    refuse_of_shards(given, "captions", "dtype", "view", "fast_decode")
    out = Path(out)
    if asked.as_ == BAGS and (asked.parts or asked.patch_tokens):
        raise ConfigError(f"--as {BAGS}: writes the tiles of slides; omit --parts and --patch-tokens")
    if asked.as_ != BAGS and out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: features are written as .safetensors or .npz")
    place_of(out, "--out")
    refuse_unused(recipe, IMAGE_KEYS if images else OF_SETS, lambda key: "embed does not use it; omit it")
    task, reporter = task_on_images(recipe), reporter or Reporter(quiet=True)
    return together(lambda: _embed(recipe, task, out, images, asked, reporter))


def _as_shards(
    recipe: Recipe, out: str, images: Sequence[str | Path], asked: EmbedOptions, reporter: Reporter
) -> EmbeddedShards:
    from .embed_shards import embed_shards
    from .shard_jobs import MOST_SKIPPED

    recipe = recipe if recipe.gave("tolerate") else recipe.with_(tolerate=1.0)
    made, place, stage, skipped = embed_shards(recipe, out, images, asked, reporter)
    width, skipped = stage.encoders[0].width, [*skipped[:MOST_SKIPPED], *made.examples]
    return EmbeddedShards(str(place), made.rows, width, made.shards, made.before, made.unreadable, skipped)


def _embed(
    recipe: Recipe, task: Task, out: Path, images: Sequence[str | Path], asked: EmbedOptions, reporter: Reporter
) -> Embedded:
    recipe = recipe if recipe.gave("tolerate") else recipe.with_(tolerate=1.0)
    if images:
        data = replace(readable(images_of(task.domain, images, recipe.reading)), tolerate=recipe.tolerate)
        prepared = on_backbone(recipe, task, data, reporter)
    else:
        prepared = prepared_images(recipe, reporter, task)
    prepared.backbone.check_channels("`vladapt embed`")
    if asked.patch_tokens:
        prepared.backbone.need("image_tokens")
    if asked.as_ == BAGS and prepared.data.tiles is None:
        raise CapabilityError(
            f"--as {BAGS}: no sample here is cut into tiles; read slides (--unit slide), or omit --as"
        )
    features = prepared.features(prepared.data.items, "images", parts=asked.parts)
    if asked.parts and features.parts is None:
        raise CapabilityError("--parts: no sample here has parts (frames, slices, windows); omit --parts")
    items = items_of(features.ids, prepared.data.items)
    stored = prepared.patch_tokens.fill(items, reporter) if asked.patch_tokens else 0
    splits, groups = [item.split for item in items], [item.group or "" for item in items]
    classifier = None if images else prepared.classifier
    if is_main() and asked.as_ == BAGS:
        _write_bags(out, features, items, prepared.backbone)
    elif is_main():
        _write(out, features, classifier, splits, groups)
    skipped = [*prepared.data.skipped, *prepared.skipped]
    return Embedded(out, len(features), features.dim, skipped, prepared.counts.computed, prepared.counts.cached, stored)


def _write_bags(folder: Path, features: FeatureSet, items: Sequence[Item], backbone: Backbone) -> None:
    """A file per slide, under the name of the slide, so that `--bags` finds it."""
    bags, names = features.stored_bags, [item.source.stem for item in items]
    assert bags is not None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"--as {BAGS}: several slides are called {twice[0]}; embed them into folders of their own")
    for row, name in enumerate(names):
        bag = bags.stored(row)
        write_bag(
            folder / f"{name}{SUFFIXES[0]}",
            [bag.read(0)],
            bag.coords(0),
            bag.attributes,
            backbone.fingerprint,
            backbone.spec,
        )


def _write(
    out: Path, features: FeatureSet, classifier: TextClassifier | None, splits: list[str], groups: list[str]
) -> None:
    tensors: dict[str, torch.Tensor] = {"image_features": features.features.cpu().contiguous()}
    words: dict[str, Any] = {"ids": list(features.ids or ()), "backbone": features.backbone}
    if features.parts is not None:
        tensors["image_parts"] = features.parts.cpu().contiguous()
        tensors["parts_mask"] = features.parts_mask.cpu().contiguous()
    if features.part_views is not None and features.parts is not None:
        words["part_views"] = features.part_views.as_text
    if features.labels is not None:
        tensors["labels"] = features.labels.cpu().contiguous()
    if classifier is not None:
        tensors["text_features"] = classifier.weights.cpu().contiguous()
        tensors["logit_scale"] = torch.tensor(classifier.logit_scale)
        words.update(class_names=list(classifier.class_names), split=splits)
    if any(groups):
        words.update(groups=groups)
    with all_or_none(out.parent, []), replacing(out) as partial:
        if out.suffix == ".npz":
            with partial.open("wb") as f:
                np.savez(f, **{k: v.numpy() for k, v in tensors.items()}, **{k: np.array(v) for k, v in words.items()})
        else:
            metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in words.items()}
            save_file(tensors, str(partial), metadata=metadata)
    remove_stale_partials(out.parent)
