"""The repository root is the package `vladapt`, so its package list is computed here."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ["core*", "adapters*", "domains*"]


class BuildWithoutThisFile(build_py):
    """This file lies in the package's folder and would be installed with it."""

    def find_package_modules(self, package, package_dir):
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]


setup(
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
