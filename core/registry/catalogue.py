"""Which adapters, domains, tasks, losses and recipes there are, by file names and entry points; nothing is imported.

`tip-adapter` is `adapters/*/tip_adapter.py`, `remote-sensing` is `domains/remote_sensing/`, `cross-entropy` is
`core/losses/cross_entropy.py`, `classification` is `core/tasks/classification/task.py`, `part-order` is
`core/judgements/part_order.py`, `csv` is `core/outputs/csv.py`, `coreset` is `adapters/selection/selectors/coreset.py`,
`k-center` is `core/curators/k_center.py`, `slerp` is `core/retrieval/compositions/slerp.py`, `clip-benchmark` is
`core/bench/sets/clip_benchmark.py`. A domain brings more of each in folders of its own:
`domains/<d>/{adapters,losses,metrics,judgements,outputs,curators,benchmarks,tasks,commands,recipes}/*.py`.
Packages outside add names through the entry points `vladapt.adapters`, `.domains`, `.tasks`, `.losses`, `.metrics`,
`.judgements`, `.outputs`, `.commands`, `.selectors`, `.curators`, `.compositions`, `.benchmarks` and `.backbones`. A
name is unique in its kind.
"""

from __future__ import annotations

import ast
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts.families import FAMILIES
from ..errors import ConfigError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
PACKAGE = __name__.rsplit(".core.", 1)[0]
DEFAULT_DOMAIN = "natural"
"""Of images of which nobody says what they are."""


@dataclass(frozen=True)
class NameOrigin:
    """Where a name comes from: a module of this package, or an entry point.

    Args:
        group: of adapters the folder (cache, head, prompt, ...).
        domain: whose it is; "" for what is shared.
    """

    name: str
    kind: str
    module: str = ""
    group: str = ""
    entry_point: EntryPoint | None = None
    domain: str = ""

    @property
    def origin(self) -> str:
        if self.entry_point is None:
            return f"vladapt.{self.module}"
        distribution = self.entry_point.dist
        return f"{self.entry_point.value} of {distribution.name if distribution else 'an entry point'}"

    @property
    def file(self) -> Path | None:
        """The file that defines it; None for an entry point."""
        if self.entry_point is not None:
            return None
        path = PACKAGE_ROOT.joinpath(*self.module.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


PUBLISHED_RUN = NameOrigin("published run", "adapter", "core.sharing.published_adapter")
"""The method that stands for a published run, which is named by its place."""


def adapters() -> dict[str, NameOrigin]:
    """Adapter name -> entry."""
    return _named("adapter", "adapters/*/*.py", "domains/*/adapters/*.py")


def domains() -> dict[str, NameOrigin]:
    """Domain name -> entry."""
    return _named("domain", "domains/*/__init__.py")


def losses() -> dict[str, NameOrigin]:
    """Loss name -> entry."""
    return _named("loss", "core/losses/*.py", "domains/*/losses/*.py")


def tasks() -> dict[str, NameOrigin]:
    """Task name -> entry."""
    return _named("task", "core/tasks/*/task.py", "domains/*/tasks/*.py")


def metrics() -> dict[str, NameOrigin]:
    """Metric name -> entry, of those that domains bring."""
    return _named("metric", "domains/*/metrics/*.py")


def judgements() -> dict[str, NameOrigin]:
    """Judgement name -> entry."""
    return _named("judgement", "core/judgements/*.py", "domains/*/judgements/*.py")


def outputs() -> dict[str, NameOrigin]:
    """Kind of output -> entry, of what `predict --as` writes."""
    return _named("output", "core/outputs/*.py", "domains/*/outputs/*.py")


def commands() -> dict[str, NameOrigin]:
    """Command name -> entry, of those that domains bring."""
    return _named("command", "domains/*/commands/*.py")


def selectors() -> dict[str, NameOrigin]:
    """Selector name -> entry, of those that choose images to label."""
    return _named("selector", "adapters/selection/selectors/*.py")


def curators() -> dict[str, NameOrigin]:
    """Curator name -> entry, of those that choose pairs of image and text."""
    return _named("curator", "core/curators/*.py", "domains/*/curators/*.py")


def benchmarks() -> dict[str, NameOrigin]:
    """Kind of benchmark set -> entry, of what `bench` scores backbones on."""
    return _named("benchmark", "core/bench/sets/*.py", "domains/*/benchmarks/*.py")


def compositions() -> dict[str, NameOrigin]:
    """Composition name -> entry, of ways in which an image and words become one query."""
    return _named("composition", "core/retrieval/compositions/*.py")


def backbones() -> dict[str, NameOrigin]:
    """Family of backbones -> entry, of those that other packages bring; our own are `FAMILIES`.

    Raises:
        ConfigError: one is called as ours.
    """
    named = _named("backbone")
    if taken := next(iter(named.keys() & FAMILIES.keys()), None):
        raise ConfigError(f"backbone '{taken}' is defined twice: by vladapt and by {named[taken].origin}; rename it")
    return named


def recipes() -> dict[str, Path]:
    """ "domain/recipe" -> file, of this package's own domains; "task/recipe" of tasks that need no domain."""
    files = sorted([*PACKAGE_ROOT.glob("domains/*/recipes/*.py"), *PACKAGE_ROOT.glob("core/tasks/*/recipes/*.py")])
    return {f"{kebab(f.parents[1].name)}/{kebab(f.stem)}": f for f in files if not f.stem.startswith("_")}


def is_place(name: object) -> bool:
    """Whether what stands for an adapter's name is the place of a published run: of the hub, `hf:OWNER/NAME`, or a
    path."""
    text = str(name)
    return text.startswith("hf:") or "/" in text or os.sep in text


def find_entry(name: str, entries: dict[str, NameOrigin], kind: str) -> NameOrigin:
    """The entry of a name.

    Raises:
        UnknownNameError: nothing has that name; the message has the nearest names.
    """
    if name in entries:
        return entries[name]
    raise UnknownNameError(f"unknown {kind} '{name}'; {did_you_mean(name, entries)}")


def assigned(file: Path, name: str) -> ast.expr | None:
    """What a class in a file assigns to an annotated name, without importing it; None where none does."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name and node.value:
            return node.value
    return None


def literal_in(entry: NameOrigin, name: str) -> Any:
    """The same as a value; None of an entry point, or where it is computed."""
    value = None if entry.file is None else assigned(entry.file, name)
    with suppress(ValueError):
        return None if value is None else ast.literal_eval(value)


def kebab(stem: str) -> str:
    """ "tip_adapter" -> "tip-adapter"."""
    return stem.replace("_", "-")


def _named(kind: str, *patterns: str) -> dict[str, NameOrigin]:
    """Files of this package and entry points; a name taken twice is an error that names both."""
    plural = "losses" if kind == "loss" else f"{kind}s"
    points = _points(tuple(sys.path), f"vladapt.{plural}")
    outside = [NameOrigin(point.name, kind, entry_point=point) for point in points]
    named: dict[str, NameOrigin] = {}
    for entry in [*_in_folder(kind, PACKAGE_ROOT, patterns), *outside]:
        if entry.name in named and named[entry.name].origin != entry.origin:
            raise ConfigError(
                f"{kind} '{entry.name}' is defined twice: by {named[entry.name].origin} and by {entry.origin}; rename "
                "or uninstall one"
            )
        named[entry.name] = entry
    return named


@cache
def _points(path: tuple[str, ...], group: str) -> tuple[EntryPoint, ...]:
    """Those of a group, for which every entry point is looked at."""
    installed = _installed(path)
    return () if installed is None else tuple(installed.select(group=group))


@cache
def _installed(path: tuple[str, ...]):
    """The entry points of what is installed along a path; None where no package has one of ours. A look at them reads
    the metadata of every package, and imports what reads it."""
    if not any(_extends_us(folder) for folder in path):
        return None
    from importlib.metadata import entry_points

    return entry_points()


def _extends_us(folder: str) -> bool:
    """Whether something that is installed in a folder has an entry point of ours; an archive may. A folder that cannot
    be read has nothing for Python either."""
    if not os.path.isdir(folder or "."):
        return os.path.exists(folder)
    with suppress(OSError):
        for place in os.scandir(folder or "."):
            if place.name.lower().endswith((".dist-info", "egg-info")):
                with suppress(OSError), open(os.path.join(place, "entry_points.txt"), "rb") as file:
                    if b"[vladapt." in file.read():
                        return True
    return False


@cache
def _in_folder(kind: str, root: Path, patterns: tuple[str, ...]) -> tuple[NameOrigin, ...]:
    files = [file.relative_to(root) for pattern in patterns for file in sorted(root.glob(pattern))]
    return tuple(_entry(kind, file) for file in files if kind == "domain" or not file.stem.startswith("_"))


def _entry(kind: str, file: Path) -> NameOrigin:
    """Of `domains/<d>/__init__.py` and `core/tasks/<t>/task.py` the folder has the name, else the file."""
    by_folder = file.name in ("__init__.py", "task.py") and len(file.parts) > 2
    named = file.parent if by_folder and (kind != "task" or file.parts[0] == "core") else file.with_suffix("")
    module = file.parent if file.name == "__init__.py" else file.with_suffix("")
    inside = file.parts[0] == "domains" and kind != "domain"
    group = file.parts[1] if kind == "adapter" and not inside else ""
    return NameOrigin(
        kebab(named.name), kind, ".".join(module.parts), group, domain=kebab(file.parts[1]) if inside else ""
    )
