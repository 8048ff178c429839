"""Where `import mmcv._ext` finds our operators when mmcv was installed without its compiled ones."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

EXTENSION = "mmcv._ext"


class OperatorFinder(MetaPathFinder):
    """Answers for `mmcv._ext` alone; last on `sys.meta_path`, so that a compiled one is found before it."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, OperatorLoader(), origin=__name__) if fullname == EXTENSION else None


class OperatorLoader(Loader):
    """Fills the module with the operators of `mmcv_ext`, imported only then because torchvision comes with them."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from .mmcv_ext import operators

        module.__doc__ = operators.__doc__
        vars(module).update(operators())


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
