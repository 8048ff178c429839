"""Runs that are handed on: folders in the layout of the Hugging Face hub, and MLflow.

MLflow's part is called `vladapt.mlflow`. It is no file of that name at the root: a checkout whose folder is on Python's
path, as `python -m pytest` puts it there, would hide MLflow itself.
"""

import importlib


def __getattr__(name: str):
    if name != "mlflow":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(".mlflow_flavour", __package__)
