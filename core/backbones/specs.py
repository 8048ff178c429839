"""What a backbone's spec says, told without torch: which family builds it, and whether its packages are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..contracts.families import FAMILIES
from ..errors import CapabilityError, UnknownNameError, did_you_mean
from .published import find_published, published

ALL_ALIASES = "and the aliases of `vladapt list backbones`"
FILE = "model.safetensors"
"""The weights of a training, and what is known of them."""


def check_spec(spec: str) -> None:
    """Refuse a spec that no family builds, or one whose family is not installed.

    Raises:
        UnknownNameError: no family or alias has that name; the message has the nearest ones.
        CapabilityError: a package of the family is missing.
    """
    if not is_fine_tuned(spec):
        check_packages(spec, family_of(spec)[0])


def family_of(spec: str) -> tuple[str, str]:
    """(family, what it makes of the rest), of a spec that is no training's.

    Raises:
        UnknownNameError: as `check_spec`.
    """
    family, _, rest = _loader(spec).partition(":")
    if family not in FAMILIES:
        known = [*FAMILIES, *(each.alias for each in published())]
        raise UnknownNameError(f"unknown backbone '{spec}'; {_nearest(family, known)}")
    return family, rest


def check_packages(spec: str, family: str) -> None:
    """Raise the CapabilityError of the first package of a family that is not installed."""
    for package in FAMILIES[family]["packages"]:
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
    return f"hf:{spec}" if _holds(spec, "config.json") else spec


def _holds(spec: str, name: str) -> bool:
    """Whether a spec is a folder with a file of that name; what can be no path is none."""
    try:
        return (Path(spec).expanduser() / name).is_file()
    except (OSError, RuntimeError, ValueError):  # too long, "~" of nobody, a null byte
        return False


def _nearest(name: str, known: list[str]) -> str:
    """The nearest names; of the many aliases none where none is near."""
    near = did_you_mean(name, known)
    return near if near.startswith("did you mean") else f"{did_you_mean(name, FAMILIES)}, {ALL_ALIASES}"
