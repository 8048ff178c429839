"""Files of models on the Hugging Face hub: from its cache, or downloaded because the user named the model."""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runtime.reading import read_json

PROBE_SECONDS = 5
ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Keys of a configuration that may name a repository of kernels."""
NOT_CACHED = "is not in the hub's cache"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""owner/name."""
NON_COMMERCIAL = re.compile(r"(?i)(^|[^a-z])nc([^a-z]|$)|non-?commercial|research-only")


def cached_file(repo: str, names: Sequence[str]) -> Path | None:
    """The first of the named files that the hub's cache holds; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path = try_to_load_from_cache(repo, name)
        if isinstance(path, str):
            return Path(path)
    return None


def hub_file(repo: str, names: Sequence[str], local_way: str) -> Path:
    """The first of the named files that the repository has: cached, else downloaded.

    Args:
        local_way: what to do without a network, for the message.

    Raises:
        DataError: not cached, and offline or not reachable; says so at once.
    """
    cached = cached_file(repo, names)
    if cached is not None:
        return cached
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    require_hub(repo, local_way)
    for name in names:
        with _one_line(repo, local_way):
            try:
                return Path(hf_hub_download(repo, name))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    raise DataError(f"hub repository '{repo}' has none of {', '.join(names)}; {local_way}")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with config.json, weights and a model card, as repositories of the hub have them.

    Args:
        path: of the folder.
    """

    path: Path

    @classmethod
    def of_hub(
        cls,
        repo: str,
        local_way: str,
        revision: str | None = None,
        tell: Callable[[str], None] | None = None,
        subfolders: Sequence[str] = (),
        needs: Callable[[Path], Sequence[Sequence[str]]] | None = None,
    ) -> ModelFolder:
        """That of a repository, with its configuration, tokenizer and weights: cached, else downloaded.

        Args:
            tell: is told the licence, before anything is downloaded, where it forbids commercial use.
            subfolders: patterns of files in folders of it that are wanted too; others are not.
            needs: is called with a folder of the small files before weights are downloaded; raises DataError where they
                are of no use, and says of which names one each is needed.

        Raises:
            DataError: not cached, and offline or not reachable; gated, before anything is downloaded; says so at once.
        """
        cached = cached_revision(repo, ["config.json"], revision)
        usable = cached if cached is not None and _has_weights(cached) else None
        if usable is not None and not (needs and _missing(usable, needs)):
            _tell_licence(repo, cls(usable).licence, tell)
            return cls(usable)
        from huggingface_hub import HfApi

        try:
            require_hub(repo, local_way)
        except DataError:
            if usable is not None:  # whoever reads the folder says which file it lacks
                return cls(usable)
            raise
        with _one_line(repo, local_way):
            about = HfApi().model_info(repo, revision=revision)
            if about.gated:
                HfApi().auth_check(repo)
        licence = str(getattr(about.card_data, "license_name", None) or getattr(about.card_data, "license", None) or "")
        _tell_licence(repo, licence, tell)
        if needs is not None:
            small = _download(repo, ["*.json", "*.txt", "README.md"], local_way, revision)
            if missing := _missing(small, needs):
                raise DataError(f"hub repository '{repo}' has none of {', '.join(missing)}; {local_way}")
        files = [file.rfilename for file in about.siblings or ()]
        safe = any(name.endswith(".safetensors") and "/" not in name for name in files)
        weights = ["*.safetensors", "*.safetensors.index.json"] if safe else ["pytorch_model*.bin*"]
        patterns = ["*.json", "*.txt", "*.model", "README.md", *weights]
        inner = [name for name in files if any(fnmatch(name, pattern) for pattern in subfolders)]
        if not inner:
            return cls(_download(repo, patterns, local_way, revision))
        outer = [name for name in files if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)]
        return cls(_download(repo, [*outer, *inner], local_way, revision, ignored=[]))

    @property
    def licence(self) -> str:
        """That the head of its model card states; "unknown" where there is none."""
        card = self.path / "README.md"
        if not card.is_file():
            return "unknown"
        head = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
        line = r"^%s:[ \t]*([\"']?)([\w.-]+)\1[ \t]*(?:#.*)?$"
        stated, named = (re.search(line % key, head, flags=re.MULTILINE) for key in ("license", "license_name"))
        if stated is None or (stated.group(2) == "other" and named is not None):
            stated = named
        return stated.group(2) if stated else "unknown"

    def config(self) -> dict[str, Any]:
        """Its config.json, as it is written.

        Raises:
            DataError: there is none, no JSON, or it names a repository whose compiled kernels would be loaded.
        """
        stated = read_object(self.path / "config.json", "config.json of the model")
        self.check_config(stated, str(self.path / "config.json"))
        return stated

    @classmethod
    def check_config(cls, stated: Any, where: str) -> None:
        """Refuse a config.json of transformers that names a repository whose compiled kernels would be loaded.

        Raises:
            DataError: one line with the key.
        """
        for key, value in stated.items() if isinstance(stated, dict) else ():
            named = list(value.values()) if isinstance(value, dict) else [value]
            if key in ATTENTION and any("/" in str(each) for each in named):
                raise DataError(f"{where}: {key} names code of a repository ('{str(value)[:60]}'); remove it")
            cls.check_config(value, where)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Args:
        what: the file is, for messages.

    Raises:
        DataError: there is none, or another content.
    """
    if not path.is_file():
        raise DataError(f"{path.parent}: has no {path.name}; give a folder with the {what}")
    read = read_json(path, "copy or download it again")
    if not isinstance(read, dict):
        raise DataError(f"{path}: not a JSON object; copy or download it again")
    return read


def _has_weights(folder: Path) -> bool:
    """Whether weights lie there, and all parts of those that are in several files."""
    for suffix in (".safetensors", ".bin"):
        indices = sorted(folder.glob(f"*{suffix}.index.json"))
        if any(_has_parts(index) for index in indices) or (not indices and any(folder.glob(f"*{suffix}"))):
            return True
    return False


def _has_parts(index: Path) -> bool:
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return all((index.parent / part).is_file() for part in parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # damaged: downloaded again


def _missing(folder: Path, needs: Callable[[Path], Sequence[Sequence[str]]]) -> Sequence[str]:
    """The names of which one is needed and none lies there."""
    return next((names for names in needs(folder) if not any((folder / name).is_file() for name in names)), ())


def _tell_licence(repo: str, licence: str, tell: Callable[[str], None] | None) -> None:
    if tell is not None and NON_COMMERCIAL.search(licence):
        tell(f"The licence of {repo} is {licence}, which forbids commercial use.")


def hub_files(repo: str, names: Sequence[str], local_way: str) -> Path:
    """A folder with those of the named small files that a repository has: cached where one of them is, or downloaded.

    Raises:
        DataError: none is cached, and offline or not reachable.
    """
    cached = cached_file(repo, names)
    if cached is not None:
        return cached.parent
    require_hub(repo, local_way)
    return _download(repo, list(names), local_way)


def cached_revision(repo: str, names: Sequence[str], revision: str | None) -> Path | None:
    """The folder of a revision in the hub's cache that holds all of the named files; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
    return Path(paths[0]).parent if all(isinstance(path, str) for path in paths) else None


def hub_snapshot(repo: str, names: Sequence[str], revision: str | None, local_way: str) -> Path:
    """A folder with those of the named files that a revision of a repository has, downloaded.

    Raises:
        DataError: offline, not reachable, or no such repository or revision.
    """
    require_hub(repo, local_way)
    return _download(repo, list(names), local_way, revision)


def _download(
    repo: str, patterns: list[str], local_way: str, revision: str | None = None, ignored: Sequence[str] = ("*/*",)
) -> Path:
    from huggingface_hub import snapshot_download

    with _one_line(repo, local_way):
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=list(ignored) or None)
        )


def require_hub(what: str, local_way: str) -> None:
    """Find out in one short try whether the hub can be reached: its own client would retry for half a minute.

    Raises:
        DataError: offline by HF_HUB_OFFLINE, or no answer.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DataError(f"'{what}' {NOT_CACHED} and HF_HUB_OFFLINE forbids using the network; {local_way}")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return  # an answer, if not a friendly one: the hub is there
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"'{what}' {NOT_CACHED} and {constants.ENDPOINT} does not answer ({reason}); {local_way}"
        ) from error


@contextmanager
def _one_line(repo: str, local_way: str):
    """The hub client's warnings and long errors as one line of ours."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"hub repository '{repo}' is gated: accept its terms at https://huggingface.co/{repo}, then give your "
            "token with `hf auth login` (or HF_TOKEN)"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(f"hub repository '{repo}' has no such revision; look it up on the hub") from error
    except RepositoryNotFoundError as error:
        raise DataError(f"the hub has no repository '{repo}', or it is private; check its id; {local_way}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"hub repository '{repo}' cannot be fetched ({reason}); {local_way}") from error
    finally:
        logger.setLevel(level)
