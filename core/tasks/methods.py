"""The adapters that a recipe asks for: built with its options, and checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from ..contracts.adapter import Adapter
from ..contracts.errors import CapabilityError, ConfigError
from ..contracts.recipe import Recipe
from ..registry import adapter_class, build_adapter

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


def trains_towers(name: str | None) -> bool:
    """Whether an adapter trains on images themselves."""
    return name is not None and "pixels" in adapter_class(name).needs


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
