"""CLIP4Clip's tightTransf on captioned clips: one transformer over a sentence and 12 frames scores the pair.

"CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval", 2021, arXiv 2104.08860. As released: 4
blocks that start from those of the text tower, at 1e-4; else what `video/clip4clip-meanp` says. An index finds
candidates by the mean of the frames, and the transformer ranks them again.
"""

_base_ = ["./parts/clip4clip.py"]

adapter = {"name": "clip4clip", "sim_header": "tightTransf", "layers": 4}
