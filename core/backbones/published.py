"""Published models by their own names: the table `published.json`, one model per line, told without loading any.

A line says the alias, the published id, what it was trained on, the width of its features, the side of its images,
millions of parameters, the licence, the domains it was made for, what its towers lack, and the spec that the alias
stands for. Ids are those of open_clip's registry and of the Hugging Face hub.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..contracts.families import FAMILIES
from ..errors import DataError

TABLE = Path(__file__).with_name("published.json")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
NON_COMMERCIAL = re.compile(r"(^|[-_ ])nc([-_ ]|$)|non-?commercial|amlr|research", re.IGNORECASE)
"""Licences that allow no commercial use, by name; apple-amlr is Apple's for research."""


@dataclass(frozen=True)
class Published:
    """One line of the table.

    Args:
        alias: the name that `--backbone` takes.
        id: of its repository on the hub, or "" where `url` has it.
        spec: what the alias stands for.
        trained_on: in words.
        width: of its features.
        size: side of its images, in pixels.
        parameters: in millions, of both towers.
        licence: as its model card says, or "unknown".
        non_commercial: whether that forbids commercial use.
        gated: whether its terms must be accepted on the hub first.
        domains: what it was made for; "natural" is for photographs of everything.
        lacks: capabilities of its family that its towers do not have.
        files: of the repository, where they are not the usual ones.
        also: further files that it needs, "owner/name:file".
        url: of an archive, for a model that is not on the hub.
        clip_file: its name in ~/.cache/clip, where open_clip and OpenAI's own package keep OpenAI's archives.
    """

    alias: str
    id: str
    spec: str
    trained_on: str
    width: int
    size: int
    parameters: float
    licence: str
    non_commercial: bool = False
    gated: bool = False
    domains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    url: str = ""
    clip_file: str = ""

    @property
    def family(self) -> str:
        return self.spec.partition(":")[0]

    @property
    def can(self) -> frozenset[str]:
        """What its towers can do; see `contracts/backbone.py`."""
        return FAMILIES[self.family]["capabilities"] - set(self.lacks)

    @property
    def has_text(self) -> bool:
        return "prompt" in self.can

    def loader(self) -> str:
        """The spec that the alias stands for.

        Raises:
            DataError: it is no model of the hub, and its archive was not unpacked here.
        """
        if not self.url:
            return self.spec
        if not self.is_cached():
            raise DataError(f"backbone '{self.alias}' is not on the hub; bring it here with: {self.fetch_command()}")
        return self.spec.format(cache=models_folder())

    def is_cached(self) -> bool:
        """Whether all that it needs lies here; asks no network and loads nothing."""
        if self.url:
            return (models_folder() / self.files[0]).is_file()
        if self.clip_file and (clip_folder() / self.clip_file).is_file():
            return True
        return all(any(_cached(repo, file) for file in files) for repo, files in self._needed())

    def fetch_command(self) -> str:
        """The command that brings it to the cache of a machine with a network, which can be copied to one without."""
        if self.url:
            folder, archive = models_folder(), self.url.rpartition("/")[2]
            return f"curl -LO {self.url} && unzip {archive} -d {folder}"
        wanted = {self.id: " ".join(self.files)}
        for repo, _, file in (each.partition(":") for each in self.also):
            if repo != self.id:
                wanted[repo] = f"{wanted.get(repo, '')} {file}".strip()
        return " && ".join(f"hf download {repo} {files}".strip() for repo, files in wanted.items())

    def _needed(self) -> list[tuple[str, tuple[str, ...]]]:
        """(repository, files of which one must be there)."""
        usual = HF_WEIGHTS if self.family == "hf" else OPEN_CLIP_WEIGHTS
        needed = [(self.id, self.files or usual)]
        if self.family == "hf":
            needed.append((self.id, ("config.json",)))
        return [*needed, *((repo, (file,)) for repo, _, file in (each.partition(":") for each in self.also))]

    def to_dict(self) -> dict[str, Any]:
        """What `list backbones --json` says of it."""
        return {
            "name": self.alias,
            "what": self.trained_on,
            "id": self.id or self.url,
            "spec": self.spec.format(cache=models_folder()),
            "width": self.width,
            "resolution": self.size,
            "parameters_millions": self.parameters,
            "licence": self.licence,
            "non_commercial": self.non_commercial,
            "gated": self.gated,
            "capabilities": sorted(self.can),
            "domains": list(self.domains),
            "cached": self.is_cached(),
            "fetch": self.fetch_command(),
        }


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """All lines of the table, in its order."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(Published(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows)


def find_published(alias: str) -> Published | None:
    """The model of an alias; None where nothing is called so."""
    return next((entry for entry in published() if entry.alias == alias.lower()), None)


def alias_of(spec: str) -> str | None:
    """The alias of a spec that names a published model, by its alias or as the table spells it; else None."""
    spellings = (spec, spec.replace("-quickgelu", ""))  # OpenAI's weights are spelt either way
    return next((each.alias for each in published() if spec.lower() == each.alias or each.spec in spellings), None)


def models_folder() -> Path:
    """Where models that are not on the hub are unpacked: `models` in $VLADAPT_CACHE, or in ~/.cache/vladapt."""
    return Path(os.environ.get("VLADAPT_CACHE") or Path.home() / ".cache" / "vladapt") / "models"


def clip_folder() -> Path:
    """Where open_clip keeps weights that it has by URL, and OpenAI's package its archives."""
    return Path("~/.cache/clip").expanduser()


def licence_line(licence: str, spec: str) -> str | None:
    """What to say of a backbone before it is used, where its licence forbids commercial use."""
    if not NON_COMMERCIAL.search(licence):
        return None
    return f"Backbone {spec}: its weights are under {licence}, for non-commercial use only"


def _cached(repo: str, file: str) -> bool:
    """Whether the hub's cache holds a file."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return isinstance(try_to_load_from_cache(repo, file), str)
