"""Recipes of curation: curators one after the other, with the options that go with each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, UnknownNameError, did_you_mean

DECONTAMINATE = "decontaminate"
"""In every recipe; it runs where test sets are given."""


@dataclass(frozen=True)
class CuratorStage:
    """A curator of a recipe."""

    curator: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CurationRecipe:
    """Stages in their order.

    Args:
        text: what it is for.
    """

    name: str
    text: str
    stages: tuple[CuratorStage, ...]

    def with_options(self, options: Mapping[str, Any]) -> CurationRecipe:
        """With options of its curators, "curator.option" -> value.

        Raises:
            ConfigError: a curator is not in it.
        """
        names = [stage.curator for stage in self.stages]
        for key in options:
            if key.partition(".")[0] not in names:
                raise ConfigError(f"--set {key}: write CURATOR.OPTION=VALUE with one of {', '.join(names)}")
        stages = [
            CuratorStage(
                stage.curator,
                {**stage.options, **{k.partition(".")[2]: v for k, v in options.items() if _of(k) == stage.curator}},
            )
            for stage in self.stages
        ]
        return CurationRecipe(self.name, self.text, tuple(stages))

    def without(self, curator: str) -> CurationRecipe:
        return CurationRecipe(self.name, self.text, tuple(each for each in self.stages if each.curator != curator))


RECIPES = {
    each.name: each
    for each in (
        CurationRecipe(
            "small-domain",
            "For the pairs of one field, thousands to a few millions, of which none is superfluous: copies go, and a "
            "tenth whose images and texts agree least.",
            (
                CuratorStage("exact"),
                CuratorStage("near"),
                CuratorStage(DECONTAMINATE),
                CuratorStage("s-cliploss", {"keep_first": 0.9}),
            ),
        ),
        CurationRecipe(
            "datacomp-like",
            "For pairs of the web, many millions: rules on texts and sizes, copies, then the three tenths that agree "
            "best, and of these the fifth of all that is most like the rest of the pool.",
            (
                CuratorStage("basic"),
                CuratorStage("exact"),
                CuratorStage(DECONTAMINATE),
                CuratorStage("s-cliploss", {"keep_first": 0.3, "target": "pool", "keep": 0.2}),
            ),
        ),
    )
}


def curation_recipe(name: str) -> CurationRecipe:
    """A recipe by name.

    Raises:
        UnknownNameError: none has that name.
    """
    if name not in RECIPES:
        raise UnknownNameError(f"--recipe {name}: no recipe of curation has that name; {did_you_mean(name, RECIPES)}")
    return RECIPES[name]


def _of(key: str) -> str:
    return key.partition(".")[0]
