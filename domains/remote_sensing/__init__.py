"""Pictures from above: satellite and aerial scenes, multi-band rasters, labels from maps, and captions."""

from .domain import RemoteSensing as RemoteSensing
