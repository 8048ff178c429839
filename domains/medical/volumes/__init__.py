"""Volumes in three dimensions: read with their geometry from NIfTI, MHA, NRRD and series of DICOM files."""

from .geometry import check_same_geometry as check_same_geometry
from .geometry import check_same_grid as check_same_grid
from .label_sets import CHANNEL as CHANNEL
from .label_sets import files_of as files_of
from .label_sets import new_volumes as new_volumes
from .label_sets import read_label_set as read_label_set
from .label_sets import volume_stem as volume_stem
from .reading import read_volume as read_volume
from .slabs import Slabs as Slabs
from .slabs import grid_of as grid_of
from .slices import volume_files as volume_files
from .structures import Structures as Structures
from .structures import read_structures as read_structures
from .structures import read_volume_labels as read_volume_labels
