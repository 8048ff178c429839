"""Work to be done on a module of another package when, and only if, that module is imported."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType


def before_import(name: str, work: Callable[[], None]) -> None:
    """Call `work()` just before the module runs; never if it is imported already. Asked twice, it is done once."""
    _note(_before, name, work)


def after_import(name: str, work: Callable[[ModuleType], None]) -> None:
    """Call `work(module)` once the module is there: now, if it is imported already. Asked twice, it is done once."""
    if name in sys.modules:
        if work not in _done[name]:
            _done[name].append(work)
            work(sys.modules[name])
        return
    _note(_after, name, work)


_before: dict[str, list[Callable[[], None]]] = defaultdict(list)
_after: dict[str, list[Callable[[ModuleType], None]]] = defaultdict(list)
_done: dict[str, list[Callable[[ModuleType], None]]] = defaultdict(list)


def _note(waiting: dict[str, list], name: str, work: Callable) -> None:
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
    if work not in waiting[name]:
        waiting[name].append(work)


class _Watcher(MetaPathFinder):
    """Finds what the path finder finds, for the awaited modules alone."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _before and fullname not in _after:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Accompanied(spec.loader)
        return spec


class _Accompanied(Loader):
    """The module's own loader, with the work around it; afterwards the module shows its own loader only."""

    def __init__(self, own: Loader):
        self.own = own

    def create_module(self, spec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__loader__ = module.__spec__.loader = self.own
        for work in _before[name]:
            work()
        self.own.exec_module(module)
        for work in _after[name]:
            _done[name].append(work)
            work(module)

    def __getattr__(self, name: str):
        return getattr(self.own, name)
