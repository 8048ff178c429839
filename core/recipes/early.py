"""What is wrong with the names and places that a command line gives, said before torch is imported.

Each is checked again where it is used, by the same function and so in the same words. The values of an adapter's
options are not checked here: its class needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..backbones.specs import check_spec
from ..contracts.recipe import Recipe, check_data_place, check_features_place
from ..registry import catalogue
from ..registry.build import load_domain
from ..registry.catalogue import find, is_place
from ..runs.places import HUB, run_folder


def check_recipe(recipe: Recipe) -> None:
    """Refuse what a fit refuses: names that nothing has, data that are not there, packages that are missing.

    Tasks that need no domain find their data themselves.

    Raises:
        UnknownNameError, ConfigError, DataError, CapabilityError: as a fit does.
    """
    check_names(recipe, () if recipe.adapter_name is None else (recipe.adapter_name,))
    if recipe.features:
        check_features_place(recipe.features)
    elif not recipe.task or recipe.domain:
        check_data_place(recipe.data_path)
    if recipe.domain:
        load_domain(recipe.domain)  # where its packages are missing


def check_names(recipe: Recipe, adapters: Iterable[str]) -> None:
    """Refuse names that nothing has, and a backbone of which a package is missing.

    Raises:
        UnknownNameError, ConfigError, CapabilityError: as a fit does.
    """
    if recipe.domain:
        find(recipe.domain, catalogue.domains(), "domain")
        if recipe.task:
            load_domain(recipe.domain).check_task(recipe.task)
    elif recipe.task:
        find(recipe.task, catalogue.tasks(), "task")
    for name in adapters:
        if not is_place(name):
            find(name, catalogue.adapters(), "adapter")
    if recipe.gave("backbone") and not recipe.features:
        for spec in recipe.backbone.split(","):
            check_spec(spec.strip())


def check_run(place: str | Path) -> None:
    """Raise the DataError of a folder that holds no run; what the hub holds is looked up when it is used."""
    if not str(place).startswith(HUB):
        run_folder(Path(place))
