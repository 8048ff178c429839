"""What a backbone's spec says, told without torch: which family builds it, and whether its packages are installed.

Published models go by their own names: the table `published.json`, one model per line. A line says the alias, the
published id, what it was trained on, the width of its features, the side of its images, millions of parameters, the
licence, the domains it was made for, what its towers lack, and the spec that the alias stands for. Ids are those of
open_clip's registry and of the Hugging Face hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts.families import FAMILIES, OFFERED
from ..errors import CapabilityError, ConfigError, DataError, UnknownNameError, did_you_mean
from ..registry import catalogue
from ..runtime.process import cache_folder

if TYPE_CHECKING:
    from .spec_options import SpecOption

TABLE = Path(__file__).with_name("published.json")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
NON_COMMERCIAL = re.compile(r"(^|[-_ ])nc([-_ ]|$)|non-?commercial|amlr|research", re.IGNORECASE)
"""Licences that allow no commercial use, by name; apple-amlr is Apple's for research."""
ALL_ALIASES = (
    "and the aliases of `vladapt list backbones`; a library's own name takes its family, as timm:resnet50 or "
    "open_clip:ViT-B-32/openai"
)
OPTION = re.compile(r"(?P<spec>.+)#(?P<name>[A-Za-z][\w-]*)=(?P<value>[^#+,]*)")
OWN_CODE = re.compile(r".+\.py:\w+")
RESOURCES = frozenset({"keys", "further_backbones"})
"""Those that are backbones."""
FILE = "model.safetensors"
"""The weights of a training, and what is known of them."""


def check_spec(spec: str) -> None:
    """Refuse a spec that no family builds, or one whose family is not installed.

    Raises:
        UnknownNameError: no family or alias has that name; the message has the nearest ones.
        CapabilityError: a package of the family is missing.
    """
    spec = bare(spec)
    if spec not in OFFERED and not is_fine_tuned(spec):
        check_family_packages(spec, spec_family(spec)[0])


def with_own_code(spec: str | None) -> str | None:
    """A spec of a command line, or several with commas between; what names a function of the user's own code, which
    runs nowhere else, is made.

    Raises:
        DataError, ConfigError: as `from_own_code`.
    """
    if spec is None or not any(OWN_CODE.fullmatch(bare(each.strip())) for each in spec.split(",")):
        return spec
    from .module import from_own_code

    made = []
    for each in map(str.strip, spec.split(",")):
        plain = bare(each)
        made.append(from_own_code(plain) + each.removeprefix(plain) if OWN_CODE.fullmatch(plain) else each)
    return ",".join(made)


def with_own_teachers(specs: list[str] | None) -> list[str] | None:
    """Teachers of a command line, each `with_own_code`."""
    return None if specs is None else [str(with_own_code(spec)) for spec in specs]


def with_own_backbones(resources: Mapping[str, str]) -> dict[str, str]:
    """Resources of a command line, those that are backbones `with_own_code`."""
    return {key: str(with_own_code(value)) if key in RESOURCES else value for key, value in resources.items()}


def split_options(spec: str) -> tuple[str, SpecOption | None]:
    """A spec without what stands behind "#", and what that says. A path that exists is never split.

    Raises:
        UnknownNameError: no option has that name. ConfigError: its value is not usable.
    """
    parts = OPTION.fullmatch(spec)
    if parts is None or _exists(spec):
        return spec, None
    from .spec_options import OPTIONS

    if parts["name"] not in OPTIONS:
        near = did_you_mean(parts["name"], [*OPTIONS])
        raise UnknownNameError(f"backbone '{spec}': has no option '{parts['name']}'; {near}")
    if OPTION.fullmatch(parts["spec"]) and not _exists(parts["spec"]):
        raise ConfigError(f"backbone '{spec}': has two options; give one of {', '.join(OPTIONS)}")
    return parts["spec"], OPTIONS[parts["name"]].of(parts["value"])


def bare(spec: str) -> str:
    """A spec without what stands behind "#"."""
    return split_options(spec)[0]


def _exists(spec: str) -> bool:
    """Whether a spec, or what follows its family or "@", is a path that is there."""
    try:
        places = spec.rpartition("@")[2] or spec, spec.partition(":")[2] or spec
        return any(Path(place).expanduser().exists() for place in places)
    except (OSError, RuntimeError, ValueError):
        return False


def spec_family(spec: str) -> tuple[str, str]:
    """(family, what it makes of the rest), of a spec that is no training's.

    Raises:
        UnknownNameError: as `check_spec`.
    """
    family, _, rest = _loader(spec).partition(":")
    if OWN_CODE.fullmatch(spec):
        raise CapabilityError(
            f"backbone '{spec}' is code of a user, which runs only where the user names it; give --backbone "
            "FILE.py:NAME"
        )
    if re.fullmatch(r".+\.py:?", spec):
        raise ConfigError(f"backbone '{spec}': code of yours needs its function, too; give --backbone FILE.py:NAME")
    if family not in FAMILIES and family not in catalogue.backbones():
        names = [*FAMILIES, *catalogue.backbones(), *(each.alias for each in published())]
        raise UnknownNameError(f"unknown backbone '{spec}'; {_nearest(family, names)}")
    return family, rest


def check_family_packages(spec: str, family: str) -> None:
    """Raise the CapabilityError of the first package of a family that is not installed."""
    for package in FAMILIES[family]["packages"] if family in FAMILIES else ():
        if find_spec(package) is None:
            raise missing_package(spec, family, package)


def missing_package(spec: str, family: str, package: str | None) -> CapabilityError:
    extra = FAMILIES.get(family, {}).get("extra", "all")
    return CapabilityError(
        f"backbone '{spec}' needs the package '{package}'; install it with: pip install 'vladapt[{extra}]'"
    )


def is_fine_tuned(spec: str) -> bool:
    """Whether a backbone's spec is a path of weights that were trained here, or of their folder."""
    if ":" in spec.partition("/")[0]:
        return False
    return spec.endswith(".safetensors") or (_holds(spec, FILE) and _wrote(Path(spec).expanduser() / FILE))


def _wrote(path: Path) -> bool:
    """Whether a file of weights in a folder is a training's; a folder as transformers publishes it has one, too."""
    if not any((path.parent / name).is_file() for name in ("config.json", "open_clip_config.json")):
        return True
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as f:
            return "vladapt" in (f.metadata() or {})
    except (SafetensorError, OSError):
        return True  # damaged, which `build_fine_tuned` says


def _loader(spec: str) -> str:
    """ "family:rest" of a spec."""
    entry = find_published(spec)
    if entry is not None:
        return entry.loader()
    if ":" in spec.partition("/")[0]:
        return spec
    if _holds(spec, "open_clip_config.json"):
        return f"open_clip:{spec}"
    if _holds(spec, "joined.json"):
        return f"join:{spec}"
    return f"hf:{spec}" if _holds(spec, "config.json") else spec


def _holds(spec: str, name: str) -> bool:
    """Whether a spec is a folder with a file of that name; what can be no path is none."""
    try:
        return (Path(spec).expanduser() / name).is_file()
    except (OSError, RuntimeError, ValueError):  # too long, "~" of nobody, a null byte
        return False


def _nearest(name: str, names: list[str]) -> str:
    """The nearest names; of the many aliases none where none is near."""
    near = did_you_mean(name, names)
    return (
        near
        if near.startswith("did you mean")
        else f"{did_you_mean(name, [*FAMILIES, *catalogue.backbones()])}, {ALL_ALIASES}"
    )


@dataclass(frozen=True)
class PublishedModel:
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
        files_of = {self.id: " ".join(self.files)}
        for repo, _, file in (each.partition(":") for each in self.also):
            if repo != self.id:
                files_of[repo] = f"{files_of.get(repo, '')} {file}".strip()
        return " && ".join(f"hf download {repo} {files}".strip() for repo, files in files_of.items())

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
def published() -> tuple[PublishedModel, ...]:
    """All lines of the table, in its order."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(PublishedModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows)


def find_published(alias: str) -> PublishedModel | None:
    """The model of an alias; None where nothing is called so."""
    alias = bare(alias).lower()
    return next((entry for entry in published() if entry.alias == alias), None)


def alias_of(spec: str) -> str | None:
    """The alias of a spec that names a published model, by its alias or as the table spells it; else None."""
    spellings = (spec, spec.replace("-quickgelu", ""))  # OpenAI's weights are spelt either way
    return next((each.alias for each in published() if spec.lower() == each.alias or each.spec in spellings), None)


def models_folder() -> Path:
    """Where models that are not on the hub are unpacked: `models` in $VLADAPT_CACHE, or in ~/.cache/vladapt."""
    return cache_folder("models")


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
