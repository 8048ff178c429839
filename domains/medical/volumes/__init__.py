"""Volumes in three dimensions: read with their geometry from NIfTI, MHA, NRRD and series of DICOM files."""

from .geometry import check_same_geometry as check_same_geometry
from .reading import read_volume as read_volume
from .structures import Structures as Structures
from .structures import read_labels as read_labels
from .structures import read_structures as read_structures
