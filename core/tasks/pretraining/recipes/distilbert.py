"""A text tower of half the layers learns its teacher's words and hidden states, as DistilBERT does. `--teacher SPEC`

"DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", 2019, arXiv 1910.01108, beside CLIP's
loss, which keeps texts and images comparable. As released: every second layer of the teacher to start from, weights of
5, 2 and 1, temperature 2, 5e-4 after 5 % of the steps. The image tower is the teacher's, if as wide, and stays.
"""

task = "pretraining"
loss = ["clip", "distilbert"]
inherit = True
lock = ["image"]
lr = 5e-4
betas = [0.9, 0.98]
warmup = 0.05
