"""Pictures from above: scenes of satellites and aircraft, multi-band rasters, maps' labels and captions."""

from .domain import RemoteSensing as RemoteSensing
