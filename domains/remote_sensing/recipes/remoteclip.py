"""RemoteCLIP's way, the baseline: both towers trained on captions, also on those made of boxes and masks.

"RemoteCLIP: A Vision Language Foundation Model for Remote Sensing", 2023, arXiv 2306.11029. `--data` takes captions,
COCO boxes, or a folder of `images` and `masks`; from boxes, five captions per image are made by the rules of
`domains/remote_sensing/box_captions.py`. As published: `--backbone openai-vit-b-32`, `openai-rn50`, `openai-vit-l-14`.
The code of its training is not public: loss and data are published, the settings are ours.
"""

domain = "remote-sensing"
task = "retrieval"
adapter = {"name": "full", "loss": "clip", "lr": 2e-5, "warmup": 0.1, "epochs": 10, "batch_size": 64}
