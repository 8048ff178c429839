"""Which adapters, domains, losses and backbones there are, told from file names and entry points, importing nothing.

`tip-adapter` is `adapters/*/tip_adapter.py`, `remote-sensing` is `domains/remote_sensing/`, `cross-entropy` is
`core/losses/cross_entropy.py`. Packages outside add names through the entry-point groups `vladapt.adapters`,
`vladapt.domains` and `vladapt.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from ..contracts.errors import ConfigError, UnknownNameError, did_you_mean

PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Entry:
    """Where a name comes from: a module of this package, or an entry point."""

    name: str
    kind: str
    module: str = ""
    group: str = ""
    entry_point: EntryPoint | None = None

    @property
    def origin(self) -> str:
        if self.entry_point is None:
            return f"vladapt.{self.module}"
        distribution = self.entry_point.dist
        return f"{self.entry_point.value} of {distribution.name if distribution else 'an entry point'}"


def adapters() -> dict[str, Entry]:
    """Adapter name -> entry; `group` is the folder (cache, head, prompt, ...)."""
    files = sorted((PACKAGE_ROOT / "adapters").glob("*/*.py"))
    own = [
        Entry(_kebab(f.stem), "adapter", f"adapters.{f.parent.name}.{f.stem}", f.parent.name)
        for f in files
        if not f.stem.startswith("_")
    ]
    return _with_entry_points("adapter", own, "vladapt.adapters")


def domains() -> dict[str, Entry]:
    """Domain name -> entry."""
    folders = sorted((PACKAGE_ROOT / "domains").glob("*/__init__.py"))
    own = [Entry(_kebab(f.parent.name), "domain", f"domains.{f.parent.name}") for f in folders]
    return _with_entry_points("domain", own, "vladapt.domains")


def losses() -> dict[str, Entry]:
    """Loss name -> entry."""
    files = sorted((PACKAGE_ROOT / "core" / "losses").glob("*.py"))
    own = [Entry(_kebab(f.stem), "loss", f"core.losses.{f.stem}") for f in files if not f.stem.startswith("_")]
    return _with_entry_points("loss", own, "vladapt.losses")


def find(name: str, entries: dict[str, Entry], kind: str) -> Entry:
    """The entry of a name.

    Raises:
        UnknownNameError: nothing has that name; the message has the nearest names.
    """
    if name in entries:
        return entries[name]
    raise UnknownNameError(f"unknown {kind} '{name}'; {did_you_mean(name, entries)}")


def _with_entry_points(kind: str, own: list[Entry], group: str) -> dict[str, Entry]:
    outside = [Entry(point.name, kind, entry_point=point) for point in entry_points(group=group)]
    found: dict[str, Entry] = {}
    for entry in own + outside:
        if entry.name in found and found[entry.name].origin != entry.origin:
            raise ConfigError(
                f"{kind} name '{entry.name}' is taken twice: by {found[entry.name].origin} and by {entry.origin}; "
                "rename or uninstall one"
            )
        found[entry.name] = entry
    return found


def _kebab(stem: str) -> str:
    return stem.replace("_", "-")
