"""A model as open_clip publishes it: a folder, or a repository of the hub, with open_clip_config.json and weights.

Its tokenizer lies in the same folder, or in another repository that the configuration names. Where transformers builds
the text tower (BiomedCLIP's), the configuration of that tower is a file of a further repository, or lies in the folder
as `text_model/config.json`.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, DataError
from .hub import REPOSITORY, cached_file, hub_file

CONFIG = "open_clip_config.json"
TEXT_MODEL = "text_model"
"""The folder beside the configuration in which the configuration of a text tower of transformers may lie."""
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
"""In the order in which they are looked for: safetensors first."""
HUB = "hf-hub:"
LOCAL = "local-dir:"
OTHERS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def published_folder(rest: str) -> tuple[Path, Path] | None:
    """The configuration and the weights that `open_clip:<rest>` names, where it names a folder or a repository.

    Returns:
        None for a spec of another form.

    Raises:
        ConfigError: the id of a repository has another form.
        DataError: a file is missing, or the repository is neither cached nor to be fetched.
    """
    if rest.startswith(HUB):
        return _in_repository(rest.removeprefix(HUB))
    try:
        path = Path(rest.removeprefix(LOCAL)).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError):  # no path: too long, "~" of nobody, a null byte
        return None
    if rest.startswith(LOCAL) or (path / CONFIG).is_file():
        return _in_folder(path)
    if path.is_dir() and "@" not in rest:
        raise DataError(f"{path}: a folder without {CONFIG}; give one with it and {WEIGHTS[0]}, as published")
    return None


def hub_checkpoint(checkpoint: str) -> Path | None:
    """The file that `hf-hub:<owner>/<name>/<file>` names, cached or downloaded; None for a spec of another form."""
    if not checkpoint.startswith(HUB):
        return None
    repo, file = split_file(checkpoint.removeprefix(HUB))
    if not file:
        raise ConfigError(f"checkpoint '{checkpoint}' is not a file; give {HUB}<owner>/<name>/<file>")
    return hub_file(repo, [file], f"fetch it with: {download_command(repo, [file])}")


def split_file(path: str) -> tuple[str, str]:
    """ "owner/name/some/file" -> ("owner/name", "some/file").

    Raises:
        ConfigError: it is no id of a repository.
    """
    owner, _, rest = path.partition("/")
    name, _, file = rest.partition("/")
    if not REPOSITORY.fullmatch(f"{owner}/{name}"):
        raise ConfigError(f"'{path}' is not a repository of the hub; give {HUB}<owner>/<name>")
    return f"{owner}/{name}", file


def download_command(repo: str, files: list[str] | tuple[str, ...] = ()) -> str:
    """The command that brings a repository, or some of its files, into the hub's cache."""
    return " ".join(["hf download", repo, *files])


def text_model_folder(name: str, folder: Path | None, spec: str) -> Path:
    """The folder with config.json of the transformers model that is an open_clip text tower.

    Args:
        name: `hf_model_name` of the configuration, an id or a folder.
        folder: of the configuration of the whole, or None.
        spec: of the backbone, for the message.

    Raises:
        DataError: it is neither there nor cached, and cannot be fetched.
    """
    places = [Path(name)] if folder is None else [folder / TEXT_MODEL, folder / name, Path(name)]
    for place in places:
        if (place / "config.json").is_file():
            return place
    if not REPOSITORY.fullmatch(name) and "/" in name:
        raise DataError(f"backbone '{spec}': {name} has no config.json of its text tower; put it there")
    where = f" or put it at {folder / TEXT_MODEL / 'config.json'}" if folder is not None else ""
    way = f"it configures the text tower of '{spec}'; fetch it with: {download_command(name, ['config.json'])}{where}"
    return hub_file(name, ["config.json"], way).parent


def _in_repository(repo: str) -> tuple[Path, Path]:
    repo, file = split_file(repo)
    if file:
        raise ConfigError(f"backbone 'open_clip:{HUB}{repo}/{file}': give open_clip:<arch>@{HUB}{repo}/{file}")
    way = f"fetch it on a machine with a network with: {download_command(repo)}"
    fresh = cached_file(repo, [CONFIG]) is None
    config = hub_file(repo, [CONFIG], way)
    weights = hub_file(repo, WEIGHTS, way)
    if fresh:
        _fetch_card(repo, way)
    return config, weights


def _fetch_card(repo: str, way: str) -> None:
    """The model card, for its licence; a repository may have none."""
    try:
        hub_file(repo, ["README.md"], way)
    except DataError:
        return


def _in_folder(folder: Path) -> tuple[Path, Path]:
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "no such folder"
        raise DataError(f"{folder}: {problem}; give a folder with {CONFIG} and weights")
    config = folder / CONFIG
    if not config.is_file():
        raise DataError(f"{folder}: has no {CONFIG}; copy the whole published folder")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return config, folder / name
    others = sorted(file for pattern in OTHERS for file in folder.glob(pattern))
    if len(others) == 1:
        return config, others[0]
    if others:
        raise DataError(
            f"{folder}: holds {len(others)} files of weights ({others[0].name}, {others[1].name}, ...); "
            f"give open_clip:{config}@<one of them>"
        )
    raise DataError(f"{folder}: has {CONFIG} but no weights; add {WEIGHTS[0]} (or open_clip_pytorch_model.bin)")
