"""Models of transformers that read images, as stages hold them: known by their files, loaded without their code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..backbones.hf_source import quiet
from ..backbones.hub import REPOSITORY, ModelFolder
from ..data.file_hashes import FileHashes
from ..errors import CapabilityError, DataError
from ..runtime.process import need_package

LOCAL_WAY = "give a folder with the model, its tokenizer and its image processor"
OFFLINE = {"local_files_only": True, "trust_remote_code": False}


def pretrained_folder(model: str) -> Path:
    """A folder, or that of a model of the hub by its id.

    Raises:
        DataError: no such folder, or not cached and no network. CapabilityError: transformers is not installed.
    """
    need_package("models that read images", "transformers", "hf")
    folder = Path(model)
    if not folder.is_dir():
        if not REPOSITORY.fullmatch(model):
            raise DataError(f"{model}: no such folder, and no model of the hub (owner/name); {LOCAL_WAY}")
        folder = ModelFolder.of_hub(model, LOCAL_WAY).path
    ModelFolder(folder).config()
    return folder


def model_fingerprint(folder: Path) -> str:
    """Of all that changes what a model gives: configurations, tokenizer, weights."""
    hashes, digest = FileHashes(), hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".txt", ".model", ".safetensors", ".bin", ".jinja"):
            digest.update(f"{path.name} {hashes.sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """A block that loads a model from a folder.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        with quiet():
            yield
    except CapabilityError:
        raise
    except Exception as error:  # transformers validates with exceptions of many kinds
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: cannot be loaded ({reason}); {LOCAL_WAY}") from error


def whole_model(cls: Any, folder: Path, otherwise: str, **how: Any) -> Any:
    """A model of a class, all of whose weights are in the folder.

    Args:
        otherwise: what such a model does not do, and which one does.

    Raises:
        CapabilityError: the folder holds another model of the same family, without some of the weights.
    """
    model, loaded = cls.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **OFFLINE, **how)
    if missing := sorted(loaded["missing_keys"]):
        raise CapabilityError(f"{folder}: {otherwise} (it has no {missing[0]})")
    return model
