"""Runs of pixel tasks as ONNX graphs of one window, with a script that maps rasters."""
