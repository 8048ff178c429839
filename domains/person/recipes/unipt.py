"""UniPT, a pre-training before another recipe, on generated sentences. `--backbone openai-vit-b-16`.

"Unified Pre-training with Pseudo Texts for Text-To-Image Person Re-identification", 2023, arXiv 2309.01420. Rate,
batch, epochs and warm-up as the released settings have them; the rest is ours. Its sentences are made by
`vladapt curate person-captions`; fine-tune with another recipe and `--backbone RUN/model.safetensors` afterwards.
"""

domain = "person"
task = "person-search"
image_size = "384x128"
adapter = {
    "name": "full",
    "loss": "unipt",
    "lr": 1e-4,
    "weight_decay": 0.01,
    "epochs": 15,
    "warmup": 0.1,
    "batch_size": 512,
    "training": {"betas": [0.9, 0.98], "eps": 1e-8},
}
