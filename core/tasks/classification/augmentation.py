"""How images are augmented for a method: as it publishes, or more mildly where that is what its domain says is safe.

docs/protocols.md is the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...contracts.adapter import Adapter
from ...contracts.choices import Augmented, FreshViews, PooledViews
from ...contracts.domain import NO_PRESET
from ...contracts.images import CropTransform
from ...contracts.prepared import PreparedData, Shots
from ...contracts.recipe import AUTO, Recipe
from ...features.table import transform_spec
from ...registry import adapter_class

Crop = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """Of a method on one data set.

    Args:
        views: stored views of each support image.
        transform: decoded image -> augmented pixels; None on a features file.
        note: what the run says of it; "" for nothing to say.
    """

    views: int = 0
    transform: Callable[..., Any] | None = None
    note: str = ""

    @property
    def spec(self) -> str:
        """Equal for transforms that do the same."""
        return "" if self.transform is None else transform_spec(self.transform)


def augmentation_of(adapter: Adapter, recipe: Recipe, prepared: PreparedData) -> Augmentation:
    """What a method's images go through in training. A preset or a protocol takes what it publishes, a user's
    `crop_scale` goes before both; else the crop is the tighter of what it publishes and of what is safe for images of
    the domain.

    Raises:
        ConfigError: `crop_scale` is given, and the domain's augmentation has no crop.
    """
    if prepared.domain is None:
        return Augmentation()
    views = views_wanted(adapter, recipe, prepared)
    usual = prepared.domain.transforms(prepared.backbone, True, prepared.task)
    if not isinstance(adapter, Augmented):
        return Augmentation(views, usual if views else None)
    as_published = (adapter.as_published or recipe.protocol is not None) and adapter.published_crop is not None
    if as_published and adapter.crop_scale is None and isinstance(usual, CropTransform):
        usual = prepared.backbone.preprocess(True)
    transform = adapter.training_transform(usual)
    if adapter.crop_scale or adapter.published_crop is None:
        return Augmentation(views, transform)
    note = f"augmented as domain {prepared.domain.name} does (published: crops of {_percent(adapter.published_crop)})"
    if isinstance(transform, CropTransform):
        crop = tighter(transform.safe_crop or adapter.published_crop, adapter.published_crop)
        transform, note = transform.with_crop(crop), _on_crop(crop, adapter.published_crop, prepared.domain.name)
    return Augmentation(views, transform, note if _augments(adapter, views) else "")


def tighter(safe: Crop, published: Crop) -> Crop:
    """The crops that both allow; where there are none, the safe ones."""
    low, high = max(safe[0], published[0]), min(safe[1], published[1])
    return (low, high) if low <= high else safe


def notes_on_augmentation(of: Mapping[str, Augmentation]) -> list[str]:
    """A sentence for each way of augmenting, with the methods that it is of where there are several."""
    names: dict[str, list[str]] = {}
    for name, augmentation in of.items():
        names.setdefault(augmentation.note, []).append(name)
    names.pop("", None)
    return [f"{note}: {', '.join(those)}" if len(of) > 1 else note for note, those in names.items()]


def views_wanted(adapter: Adapter, recipe: Recipe, prepared: PreparedData) -> int:
    """How many augmented views of each support image a fit has, as projected features.

    Those that the adapter asks for; where neither the user nor a preset nor a protocol says how many, no more than the
    domain found to help.
    """
    if "views" not in adapter.needs or "pre_projection" in adapter.needs:
        return 0
    asked = adapter.pooled if isinstance(adapter, PooledViews) else int(adapter.options.get("views") or 0)
    own = recipe.with_adapter(adapter.name).adapter_options
    given = adapter.as_published or recipe.protocol is not None or "views" in own
    most = None if given or prepared.domain is None else prepared.domain.views
    return asked if most is None else min(asked, most)


def with_fresh_views(recipe: Recipe, names: Iterable[str]) -> Recipe:
    """The recipe whose methods encode new views in every epoch, as they publish, where a protocol or a preset is asked
    for, there are images and no keys of another backbone, and nobody said otherwise."""
    if recipe.features or recipe.resources.get("keys"):
        return recipe
    options: dict[str, Any] = dict(recipe.adapters)
    for name in names:
        own = recipe.with_adapter(name).adapter_options
        if issubclass(adapter_class(name), FreshViews) and "fresh_views" not in own and _published(recipe, name, own):
            options[name] = {"fresh_views": True, **(options.get(name) or {})}
    return recipe.with_(adapters=options)


def fewer_views(shots: Shots, views: int) -> Shots:
    """The draw with the first `views` augmented views of its support, where it holds more."""
    support = shots.support
    if support.views is None or support.views.shape[1] == views:
        return shots
    return replace(shots, support=replace(support, views=support.views[:, :views] if views else None))


def _augments(adapter: Adapter, views: int) -> bool:
    """Whether a fit looks at augmented images."""
    fresh = isinstance(adapter, FreshViews) and adapter.fresh
    before = "pre_projection" in adapter.needs and bool(adapter.options.get("views"))
    return views > 0 or fresh or before or "pixels" in adapter.needs


def _published(recipe: Recipe, name: str, own: Mapping[str, Any]) -> bool:
    """Whether the user asks for a method as published: by a protocol, or by a preset that it has."""
    named = recipe.preset not in (AUTO, NO_PRESET) or own.get("preset") is not None
    return recipe.protocol is not None or (named and bool(adapter_class(name).presets))


def _on_crop(crop: Crop, published: Crop, domain: str) -> str:
    why = (
        "as published"
        if crop == published
        else f"the safe share for domain {domain} (published: {_percent(published)})"
    )
    return f"random crops keep {_percent(crop)} of an image, {why}"


def _percent(crop: Crop) -> str:
    return f"{100 * crop[0]:g} to {100 * crop[1]:g} %"
