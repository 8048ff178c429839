"""A run of a model of transformers that nothing trained: kept in the cache, made again where the model has changed."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ....core.contracts import DomainData, Recipe
from ....core.data import IMAGE, FileHashes, loader
from ....core.features import FeatureStore
from ....core.runtime import Reporter
from ..vocabulary import UNASKED
from .source import RUN, HubModel, stable_text
from .starting import source_at
from .tokens import TOKENIZER_FILES

if TYPE_CHECKING:
    from ....core.tasks import ConfigTask


FORMAT = 1
"""Of the runs in the cache: raised where the same model would be written otherwise."""


def run_of_source(source: HubModel, task: ConfigTask) -> Path:
    """The folder of the run of a source; whole or not there, however many make it at once.

    Args:
        task: that the source's type is of.
    """
    folder = FeatureStore.default_root().parent / "models" / _key(source)
    if (folder / RUN).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as making:
        names = source.known_names or (UNASKED,)
        data = DomainData([], names, loader((IMAGE,)), name=source.repository or source.folder.name)
        options = {"start": source.place}
        recipe = Recipe(domain=task.domain.name, task=task.name, adapter={"name": None, "epochs": 0})
        recipe = recipe.with_(task_options=options, out=making, given=frozenset({"adapter.epochs"}))
        made = task.used_as_it_is(task.settled(recipe), data, Reporter(quiet=True))
        with suppress(OSError):  # another process was first
            os.rename(made, folder)
    return folder


def usable(place: str) -> HubModel | None:
    """The model of a place; None of a place that names a run."""
    source = source_at(place)
    return None if source is None or source.is_run else source


def _key(source: HubModel) -> str:
    weights = sorted([*source.folder.glob("*.safetensors"), *source.folder.glob("pytorch_model*.bin")])
    hashes = list(map(FileHashes().sha256, weights))
    tokenizer = [source.folder / name for name in TOKENIZER_FILES]
    texts = [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in tokenizer]
    made_by = [FORMAT, version("vladapt"), version("transformers")]
    identity = [source.config, source.processor, list(source.names), source.facts(), hashes, texts, made_by]
    return hashlib.sha256(stable_text(identity).encode()).hexdigest()[:24]
