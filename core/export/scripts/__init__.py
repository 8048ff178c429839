"""What an export of a model that finds things is asked by, without vladapt or torch; `serve` asks it by them too."""

from . import boxes, maps, pictures

__all__ = ["boxes", "maps", "pictures"]
