"""All that mm configs name as `vladapt.NAME`: importing this package registers it."""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import walk_packages

from ..stack import PACKAGES

if all(find_spec(package) for package in PACKAGES):
    for module in walk_packages(__path__, f"{__name__}."):
        import_module(module.name)
