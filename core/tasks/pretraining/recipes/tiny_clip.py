"""A smaller model starts from a part of its teacher's weights and mimics which texts it takes for which images.

"TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance", 2023, arXiv 2309.12314. `--teacher SPEC`,
of the same family as `--backbone`. As released: 6 epochs at 1e-4, gradients of a norm of 5 at most, blocks spread out,
first heads and channels. In place of the masks that it may learn, go down in steps of a quarter of the weights,
each model the teacher's successor.
"""

task = "pretraining"
loss = ["clip", "distill"]
loss_options = {"distill": {"feature": 0.0, "similarity": 1.0}}
inherit = True
epochs = 6
lr = 1e-4
clip_grad = 5.0
