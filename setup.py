"""The repository root is the package `vladapt`, so its package list is computed here."""

from setuptools import find_packages, setup

ROOMS = ["core*", "adapters*", "domains*"]

setup(
    package_dir={"vladapt": "."},
    packages=["vladapt", *(f"vladapt.{name}" for name in find_packages(include=ROOMS))],
    package_data={"": ["*.json", "*.txt", "recipes/*", "*.j2", "*.css", "py.typed"]},
)
