"""All that mm configs name as `vladapt.NAME`: importing this package registers it."""

from importlib import import_module
from pkgutil import walk_packages

for module in walk_packages(__path__, f"{__name__}."):
    import_module(module.name)
