"""GeoRSCLIP's way: LoRA on captioned images from above, contrastive. As published: `--backbone openai-vit-b-32`.

"RS5M and GeoRSCLIP", 2023, arXiv 2306.11300. The code of its training is not public: loss and starting weights are
published, all settings of the training are ours. `--data` takes RS5M's shards, RSITMD's and RSICD's tables.
"""

domain = "remote-sensing"
task = "retrieval"
adapter = {
    "name": "lora",
    "loss": "clip",
    "r": 16,
    "alpha": 16.0,
    "params": ["q", "k", "v", "out"],
    "dropout": 0.1,
    "lr": 1e-4,
    "warmup": 0.1,
    "epochs": 10,
    "batch_size": 64,
    "prompts_a_class": None,
}
