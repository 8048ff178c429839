"""Work to be done on a module of another package when, and only if, that module is imported."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

EXTENSION = "mmcv._ext"


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

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__loader__ = module.__spec__.loader = self.loader
        for work in _before[name]:
            work()
        self.loader.exec_module(module)
        for work in _after[name]:
            _done[name].append(work)
            work(module)

    def __getattr__(self, name: str):
        return getattr(self.loader, name)


class OperatorFinder(MetaPathFinder):
    """Answers for `mmcv._ext` alone; last on `sys.meta_path`, so that a compiled one is found before it."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, OperatorLoader(), origin=__name__) if fullname == EXTENSION else None


class OperatorLoader(Loader):
    """Fills the module with the operators of `mmcv_ext`, imported only then because torchvision comes with them."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from . import mmcv_ext

        vars(module).update(mmcv_ext.OPERATORS, __doc__=mmcv_ext.__doc__, __getattr__=mmcv_ext.refusing)


def offer_operators() -> None:
    """Append the finder to `sys.meta_path`; idempotent."""
    if not any(isinstance(finder, OperatorFinder) for finder in sys.meta_path):
        sys.meta_path.append(OperatorFinder())


def operators_are_ours() -> bool:
    """True if `mmcv._ext` is, or would be, our stand-in: mmcv is there, and nothing compiled was found before it."""
    try:
        spec = find_spec(EXTENSION)
    except ModuleNotFoundError:
        return False
    return spec is not None and isinstance(spec.loader, OperatorLoader)
