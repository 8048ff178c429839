"""Nothing is trained: CLIPer (arXiv 2411.13836): early layers fused through their own attention.

For vision transformers. A class called "background" gets what no other class is sure of; say how sure with prob_thd.
"""

_base_ = "./maskclip.py"

model = dict(type="vladapt.CLIPer")
