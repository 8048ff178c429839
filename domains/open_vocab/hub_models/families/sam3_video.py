"""The whole SAM 3, as its checkpoint holds it: its detector, see `sam3`. Its tracker outlines boxes (`--masks-by`)."""

from .sam3 import Model

__all__ = ["Model"]
