"""Nothing is trained: SCLIP (arXiv 2312.01597): correlative self-attention in the last block.

For vision transformers. A class called "background" gets what no other class is sure of; say how sure with prob_thd.
"""

_base_ = "./maskclip.py"

model = dict(type="vladapt.SCLIP")
