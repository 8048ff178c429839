"""ViFi-CLIP from 16 clips per class: both towers fine-tuned on the mean of 32 frames, as X-CLIP is for few shots.

"Fine-tuned CLIP Models are Efficient Video Learners", 2022, arXiv 2212.03640. As released: what `video/x-clip-few-shot`
does to clips and learns by, "a photo of a" before the class name, weight decay on all weights. `--train-list
train1_few_shot_16.txt --shots all` takes the published clips. The published training on Kinetics, for a test on other
classes, is `--shots all --epochs 10 --lr 8e-6 --batch-size 256 --set adapter.warmup=0.5`.
"""

_base_ = ["./x_clip_few_shot.py"]

templates = ["a photo of a {}."]
adapter = {"name": "vifi-clip", "training": {"decayed": "all"}}
