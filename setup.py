"""The repository root is the package `vladapt`, so its package list is computed here."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ["core*", "adapters*", "domains*"]


class BuildWithoutThisFile(build_py):
    """This file lies in the package's folder and would be installed with it."""

    def find_package_modules(self, package, package_dir):
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]


def description() -> str:
    """README.md for an index, which has none of the files beside it: links and pictures are those of the repository."""
    root = Path(__file__).parent
    repository = re.search(r'(?m)^repository = "(.*?)/?"', (root / "pyproject.toml").read_text(encoding="utf-8"))[1]
    text = (root / "README.md").read_text(encoding="utf-8")
    if not repository:
        return text
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{repository}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)", rf"\1{repository}/blob/main/", text)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    package_dir={"vladapt": "."},
    packages=["vladapt", *(f"vladapt.{name}" for name in find_packages(include=ROOMS))],
    package_data={
        "": [
            *("*.json", "*.txt", "*.pyi", "py.typed", "*.j2"),
            *("recipes/*", "recipes/parts/*", "languages/*", "sample/*", "page/*"),
        ]
    },
    cmdclass={"build_py": BuildWithoutThisFile},
)
