"""A run of a model of transformers that nothing trained: kept in the cache, made again where the model has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ....core.contracts import DomainData, Recipe
from ....core.data import IMAGE, FileHashes, loader
from ....core.features import FeatureStore
from ....core.runtime import Reporter
from .source import HubModel, as_text
from .starting import source_at

if TYPE_CHECKING:
    from ....core.tasks import ConfigTask


def run_of_source(source: HubModel, task: ConfigTask) -> Path:
    """The folder that holds the run of a source.

    Args:
        task: that the source's type is of.
    """
    folder = FeatureStore.default_root().parent / "models" / _key(source)
    if not any(folder.glob("*/run.json")):
        names = source.known_names or ("object",)
        data = DomainData([], names, loader((IMAGE,)), name=source.repository or source.folder.name)
        options = {"start": source.place}
        recipe = Recipe(domain=task.domain.name, task=task.name, adapter={"name": None, "epochs": 0})
        recipe = recipe.with_(task_options=options, out=str(folder), given=frozenset({"adapter.epochs"}))
        task.used_as_it_is(task.settled(recipe), data, Reporter(quiet=True))
    return folder


def usable(place: str) -> HubModel | None:
    """The model of a place; None of a place that names a run."""
    source = source_at(place)
    return None if source is None or source.is_run else source


def _key(source: HubModel) -> str:
    weights = sorted([*source.folder.glob("*.safetensors"), *source.folder.glob("pytorch_model*.bin")])
    hashes = list(map(FileHashes().sha256, weights))
    told = [source.config, source.processor, list(source.names), source.facts(), hashes]
    return hashlib.sha256(as_text(told).encode()).hexdigest()[:24]
