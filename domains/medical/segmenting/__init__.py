"""Volumes segmented: their fingerprint, patches and network, windows slid over them, and scores of what comes out."""

from .fingerprint import Fingerprint as Fingerprint
from .fingerprint import fingerprint_of as fingerprint_of
from .labels import CLASSES as CLASSES
from .labels import MAPS as MAPS
from .labels import REGIONS as REGIONS
from .labels import ScoreRule as ScoreRule
from .labels import learned as learned
from .masks import MaskScores as MaskScores
from .pictures import middle_slice as middle_slice
from .pictures import outlined_slices as outlined_slices
from .planning import network_plan as network_plan
from .preprocessing import PreparedCase as PreparedCase
from .preprocessing import Preprocessing as Preprocessing
from .preprocessing import case_of as case_of
from .preprocessing import prepared as prepared
from .scores import case_intervals as case_intervals
from .scores import case_scores as case_scores
from .scores import mean_scores as mean_scores
from .windows import sliding_scores as sliding_scores
from .windows import write_labels as write_labels
