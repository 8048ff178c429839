"""Nothing is trained: ProxyCLIP (arXiv 2408.04883): another backbone's features, of `proxy`, as the last attention.

For vision transformers. A class called "background" gets what no other class is sure of; say how sure with prob_thd.
"""

_base_ = "./maskclip.py"

model = dict(type="vladapt.ProxyCLIP", proxy="embedded")
