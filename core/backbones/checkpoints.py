"""Weights from files: safetensors, or torch files read without running what is in them."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..data.file_hashes import FileHashes
from ..errors import ConfigError, DataError
from .openai_weights import FACTS, is_archive_of_code, read_archive

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
OURS = "vladapt."
NAMED = 3


def require_file(path: Path, what: str) -> None:
    """Raise the DataError of a missing file."""
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {problem}; give the {what}")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Name -> float32 (or integer) tensor, free of wrappers (`state_dict`) and prefixes (`module.`).

    Raises:
        DataError: the file is missing, truncated, holds code, or holds no weights.
    """
    require_file(path, "checkpoint file (.safetensors, or .pt of tensors only)")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: holds no weights but a {type(content).__name__}; give a state dict")
    content = _flat(content)
    state = {k: v for k, v in content.items() if isinstance(v, Tensor) and k not in FACTS and not k.startswith(OURS)}
    if not state:
        raise DataError(f"{path}: holds no weights; give a state dict")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _flat(content: Mapping) -> Mapping:
    """Weights that a file holds by module (CROMA), under their whole names."""
    if not content or not all(isinstance(part, Mapping) for part in content.values()):
        return content
    return {f"{name}.{key}": value for name, part in content.items() for key, value in part.items()}


def _read_safetensors(path: Path):
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: truncated or damaged ({_first_line(error)}); copy or download it again") from error


def _read_torch(path: Path):
    if is_archive_of_code(path):
        weights = read_archive(path)
        if weights is None:
            raise DataError(
                f"{path}: refused, a TorchScript archive holds code and this is not one of OpenAI's; give the state "
                "dict as .safetensors"
            )
        return weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here ends in one of the errors below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: refused, it holds more than tensors and reading it could run code; save its state dict as "
            ".safetensors on a machine where you trust it"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError and others for a damaged file
        raise DataError(f"{path}: truncated or damaged ({_first_line(error)}); copy or download it again") from error


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path, architecture: str, optional=()) -> None:
    """Copy the weights into the model, all of them or none.

    Args:
        architecture: what the model is called, for the message.
        optional: names that the file may lack.

    Raises:
        DataError: names or shapes differ; the message has the first few.
    """
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    missing = [key for key in shapes.keys() - state.keys() - set(optional) if not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in shapes]
    reshaped = [
        f"{key}: {tuple(state[key].shape)} for {tuple(shape)}"
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    groups = (("missing", sorted(missing)), ("unexpected", unexpected), ("of another shape", reshaped))
    wrong = [f"{len(names)} {kind} ({_few(names)})" for kind, names in groups if names]
    if wrong:
        raise DataError(
            f"{path}: these are not the weights of {architecture}: {', '.join(wrong)}; "
            "name the architecture they were trained with"
        )
    model.load_state_dict(state, strict=False)


def resize_positions(table: Tensor, grid: tuple[int, int], prefix: int, own: tuple[int, int] | None = None) -> Tensor:
    """Position embeddings (prefix + P, W) of the grid `own`, by default a square, resampled to (prefix + h * w, W)."""
    height, width = grid
    first, patches = table[:prefix], table[prefix:]
    if own is None or own[0] * own[1] != len(patches):
        side = round(len(patches) ** 0.5)
        own = (side, side) if side * side == len(patches) else grid
    if tuple(own) == tuple(grid):
        return table
    laid_out = patches.view(1, *own, -1).permute(0, 3, 1, 2)  # (1, W, h', w')
    resampled = F.interpolate(laid_out, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, resampled.permute(0, 2, 3, 1).reshape(height * width, -1)])


def copy_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of the named files that are there."""
    for name in names:
        if (source / name).is_file() and source.resolve() != target.resolve():
            shutil.copyfile(source / name, target / name)


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def random_seed(checkpoint: str) -> int | None:
    """The seed of "random" or "random:SEED": weights that nothing has trained; None for a file."""
    word, _, seed = checkpoint.partition(":")
    if word != "random" or Path(checkpoint).is_file():
        return None
    if seed and not seed.isdigit():
        raise ConfigError(f"backbone '...@{checkpoint}': the seed of random weights is a whole number, as in @random:3")
    return int(seed or 0)


def file_digests(paths: list[Path]) -> list[str]:
    """sha256 of each file; a file hashed once is not read again until it changes.

    Raises:
        DataError: a file cannot be read.
    """
    hashes = FileHashes()
    return [hashes.sha256(path) for path in paths]
