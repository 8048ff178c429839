"""X-CLIP of action recognition, on all clips of Kinetics: frames exchange messages, class texts look at the clip.

"Expanding Language-Image Pretrained Models for General Video Recognition", 2022, arXiv 2208.02816. As released: 8
frames of equal segments, MultiScaleCrop, flips, changed colours and grey, mixup or CutMix, smoothed labels, 30 epochs
of AdamW at 8e-6 in batches of 256, the class name alone as its text, no weights of classes, 224 of 256 pixels of a test
clip. Colours change alike in all frames of a clip (released: in each anew), and the last epoch is kept (released: the
best on test). For the published 4 x 3 views add `--crops 3 --average-views probabilities`, which takes the three crops
of one clip.
"""

domain = "video"
task = "action-recognition"
backbone = "openai-vit-b-16"
shots = "all"
templates = ["{}"]
batch_size = 256
data = {
    "frames": 8,
    "sampling": "segment-random",
    "centre_share": 0.875,
    "train_crop": "multi-scale",
    "train_colours": "strong",
    "train_grey": 0.2,
}
adapter = {
    "name": "x-clip",
    "lr": 8e-6,
    "weight_decay": 1e-3,
    "epochs": 30,
    "warmup": 5 / 30,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "class_weight": "none",
}
