"""Which recipes there are, told from file names, importing nothing."""

from __future__ import annotations

from pathlib import Path

from ..contracts.errors import UnknownNameError
from ..registry import catalogue
from ..registry.catalogue import did_you_mean


def recipe_file(name: str) -> Path:
    """The file of a packaged recipe."""
    known = recipes()
    if name in known:
        return known[name]
    short = {full: path for full, path in known.items() if full.split("/", 1)[1] == name}
    if len(short) == 1:
        return next(iter(short.values()))
    if short:
        raise UnknownNameError(f"recipe '{name}' is in several domains; give one of {', '.join(short)}")
    domain, _, rest = name.partition("/")
    if rest and domain in catalogue.domains():
        from ..registry import load_domain

        outside = load_domain(domain).recipes
        if rest in outside:
            return outside[rest]
        known = {**known, **{f"{domain}/{own}": path for own, path in outside.items()}}
    raise UnknownNameError(f"unknown recipe '{name}'; {did_you_mean(name, known)}")


def recipes() -> dict[str, Path]:
    """ "domain/recipe" -> file of this package's own domains, from file names."""
    files = sorted((catalogue.PACKAGE_ROOT / "domains").glob("*/recipes/*.py"))
    return {f"{_kebab(f.parents[1].name)}/{_kebab(f.stem)}": f for f in files}


def _kebab(stem: str) -> str:
    return stem.replace("_", "-")
