"""Scores of detectors and segmentors, as functions of what is true and what was found."""

from .detection import Detected as Detected
from .detection import DetectionScores as DetectionScores
from .detection import Truth as Truth
from .detection import score_detections as score_detections
from .detection import truth_of as truth_of
from .segmentation import SegmentationScores as SegmentationScores
from .segmentation import confusion as confusion
from .segmentation import score_segmentation as score_segmentation
