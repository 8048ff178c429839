"""Pairs are ranked by their features, then by two encoders that see image and text together.

"CCMB: A Large-scale Chinese Cross-modal Benchmark", 2022, arXiv 2205.03860: the losses of its retrieval. The encoders
serve the training; the model that it leaves is searched by features.
"""

task = "pretraining"
loss = ["r2d2"]
