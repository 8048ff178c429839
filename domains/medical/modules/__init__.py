"""All that mm configs name as `vladapt.NAME`: importing this package registers it; MONAI is imported at first use."""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import walk_packages

if find_spec("monai"):
    for module in walk_packages(__path__, f"{__name__}."):
        import_module(module.name)
