"""Scores of detectors and segmentors, as functions of what is true and what was found."""

from .detection import Detected, DetectionScores, Truth, score_detections, truth_of
from .segmentation import SegmentationScores, confusion, score_segmentation

__all__ = [
    "Detected",
    "DetectionScores",
    "SegmentationScores",
    "Truth",
    "confusion",
    "score_detections",
    "score_segmentation",
    "truth_of",
]
