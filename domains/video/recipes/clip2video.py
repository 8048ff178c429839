"""CLIP2Video on captioned clips: differences between 12 frames, and centres that clips and words share.

"CLIP2Video: Mastering Video-Text Retrieval via Image CLIP", 2021, arXiv 2106.11097. As released: the differences by a
block of attention, 5 centres, both similarities and their losses weighted by 0.5, 12 frames. The training itself is not
released: it is that of `video/clip4clip-seqtransf`. `--partition 9k` of MSR-VTT; for VATEX `--set adapter.centers=7`.
"""

_base_ = ["./parts/clip4clip.py"]

adapter = {
    "name": "clip2video",
    "temporal_proj": "sigmoid_selfA",
    "center_proj": "TAB_TDB",
    "centers": 5,
    "center_weight": 0.5,
    "layers": 4,
}
