"""SAM 2 as its checkpoints for videos hold it: see `sam2`."""

from .sam2 import Model

__all__ = ["Model"]
