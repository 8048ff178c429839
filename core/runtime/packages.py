"""Which packages are installed, told without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ..errors import CapabilityError


def installed_version(name: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def need_package(who: str, module: str, extra: str, package: str = "") -> None:
    """Raise the CapabilityError of a module that is not installed.

    Args:
        who: what needs it: "adapter 'x'".
        extra: of this project, which brings it.
        package: that has the module, where it is called otherwise.
    """
    if find_spec(module) is None:
        raise CapabilityError(
            f"{who} needs the package '{package or module}'; install it with: pip install 'vladapt[{extra}]'"
        )
