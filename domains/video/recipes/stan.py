"""STAN's branch beside the image tower on captioned clips: along time, then within 12 frames.

"Revisiting Temporal Modeling for CLIP-based Image-to-Video Knowledge Transferring", 2023, arXiv 2301.11116. As released
for MSR-VTT (`--partition 9k`): one frame drawn of each of 12 steps, crops of 0.08 of the area or more and no other
augmentation, AdamW at 2e-6 and ten times that for the branch, weight decay 0.05, gradients of norm 5 at most, batches
of 128, and 10 epochs in which the rate rises to the end (released: from a twentieth of it). In `video/mug-stan` words
of a sentence weight the branch's frames.
"""

domain = "video"
task = "retrieval"
backbone = "openai-vit-b-32"
batch_size = 128
data = {"frames": 12, "sampling": "uniform-random", "train_flip": False, "train_colours": "none"}
adapter = {
    "name": "stan",
    "loss": "clip",
    "lr": 2e-6,
    "weight_decay": 0.05,
    "epochs": 10,
    "warmup": 1_000_000,  # steps: more than there are
    "crop_scale": [0.08, 1.0],
    "clip_grad": 5.0,
    "depth": 4,
    "training": {"eps": 1e-8},
}
