"""TeachText on captioned clips: a max margin, and the similarities by teachers with other text encoders.

"TeachText: CrossModal Generalized Distillation for Text-Video Retrieval", 2021, arXiv 2104.08271. As released for
MSR-VTT: the margin of 0.0938, the smooth L1 to the mean of the teachers' similarities of all pairs with weight 1,
batches of 64. The released student and teachers are weighted experts on stored features, three teachers with other
texts each; here towers are trained on 12 frames, one per second, and the teacher is a CLIP with XLM-R. Others are
given by `--teacher`, repeatable. Rate and epochs are ours.
"""

domain = "video"
task = "retrieval"
backbone = "openai-vit-b-32"
batch_size = 64
data = {"frames": 12, "sampling": "fps", "train_crop": "centre", "train_flip": False, "train_colours": "none"}
adapter = {
    "name": "full",
    "loss": "teach-text",
    "loss_options": {"teach-text": {"margin": 0.0938, "distill": 1.0}},
    "teacher": ["laion-xlm-roberta-vit-b-32"],
    "lr": 1e-6,
    "weight_decay": 0.2,
    "epochs": 5,
}
