"""Detectors and segmentors as ONNX graphs that were compared with them."""
