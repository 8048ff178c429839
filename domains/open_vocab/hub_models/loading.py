"""Weights of a model of transformers from its folder, with its head grown to the names that are wanted."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ....core.errors import DataError
from ....core.runs import Run
from ....core.tasks import KeptModel
from .family import HEAD, Family
from .growing import grown
from .source import HubModel, hub_model
from .tokens import HeldTokenizer

WEIGHTS, TOKENIZER = "adapter.safetensors", "tokenizer.file"
"""Of a run, and its tokenizer in them."""
INSIDE = "model."
"""Before the names of transformers' weights in a detector or segmentor of mm."""

COMPUTED = "criterion."
"""Where names of buffers begin that follow from the configuration."""


def pretrained_weights(folder: str | Path, family: Family, new: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights for a new model of the type.

    Args:
        folder: with config.json and the weights.
        new: transformers' model with random weights and a row per name.

    Raises:
        DataError: the weights cannot be read, or are not those of the model.
    """
    source = _source(folder)
    before = _of_run(source) if source.is_run else _loaded(source, family).state_dict()
    if family.asked_by != HEAD:
        return before
    return grown(before, new.state_dict(), family, source.names, names)


def pretrained_tokenizer(folder: str | Path) -> HeldTokenizer:
    """The tokenizer that lies beside a model's weights, or in those of a run.

    Raises:
        DataError: there is none that can be read.
    """
    source = _source(folder)
    if not source.is_run:
        return HeldTokenizer(folder)
    from safetensors import safe_open

    held = HeldTokenizer()
    with safe_open(str(source.folder / WEIGHTS), framework="pt") as weights:
        held.load_state_dict({"file": weights.get_tensor(TOKENIZER)})
    return held


def _source(folder: str | Path) -> HubModel:
    source = hub_model(f"hf:{folder}")
    if source is None:
        raise DataError(f"{folder}: a run of another model, not of one of transformers; give such a run, or hf:FOLDER")
    return source


def _of_run(source: HubModel) -> dict[str, Tensor]:
    """Those that a run has trained, without what stands before their names."""
    model = KeptModel(Run.open(source.folder)).load(torch.device("cpu"))
    state = {} if model is None else model.state_dict()
    return {name.removeprefix(INSIDE): value for name, value in state.items() if name.startswith(INSIDE)}


def _loaded(source: HubModel, family: Family) -> nn.Module:
    """transformers' own reading, which knows how weights were named before: safetensors, or tensors alone."""
    from ....core.backbones import quiet

    was = type(family)({**source.config}, len(source.names))
    try:
        with quiet():
            model, loading_info = was.class_of_model().from_pretrained(
                source.folder,
                config=was.transformers_config(),
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and torch raise of many kinds
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{source.folder}: its weights cannot be read ({reason}); copy or download it again") from error
    if missing := sorted(name for name in loading_info["missing_keys"] if not name.startswith(COMPUTED)):
        raise DataError(
            f"{source.folder}: its weights lack {len(missing)} of the model's, for instance {missing[0]}; copy or "
            "download it again"
        )
    return model.float()
