"""X-CLIP of action recognition from 16 clips per class: 32 frames, 50 epochs at 2e-6; else `video/x-clip`.

"Expanding Language-Image Pretrained Models for General Video Recognition", 2022, arXiv 2208.02816, as released
for few shots of HMDB51 and UCF101. `--train-list train1_few_shot_16.txt --shots all` takes the published clips.
"""

_base_ = ["./x_clip.py"]

shots = 16
batch_size = 64
data = {"frames": 32}
adapter = {"lr": 2e-6, "epochs": 50, "warmup": 5 / 50}
