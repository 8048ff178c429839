"""Nothing is trained: SegEarth-OV (arXiv 2410.01768): for aerial images; upsampler by `--resource upsampler=FILE`.

For vision transformers. A class called "background" gets what no other class is sure of; say how sure with prob_thd.
"""

_base_ = "./maskclip.py"

model = dict(type="vladapt.SegEarthOV", upsampler="bicubic")
