"""CLIP4Clip's seqTransf on captioned clips: a transformer over 12 frames, trained with both towers.

"CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval", 2021, arXiv 2104.08860. As released: 4
blocks that start from those of the text tower, at 1e-4; else what `video/clip4clip-meanp` says.
"""

_base_ = ["./parts/clip4clip.py"]

adapter = {"name": "clip4clip", "sim_header": "seqTransf", "layers": 4}
