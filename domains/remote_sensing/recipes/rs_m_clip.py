"""RS-M-CLIP's way: captions in several languages, contrastive and self-distilled; take a multilingual `--backbone`.

"Multilingual Vision-Language Pre-training for the Remote Sensing Domain", 2024, arXiv 2410.23370: a multilingual CLIP
learns from captions and their machine translations. All are in one table with a column `language`; in every step one
caption of each image is drawn. CLIP's loss and the self-distillation of `silc` are added with weight 1. The code of the
training is not public, and the settings are ours. `vladapt eval RUN --language pt` scores one language. The default
backbone reads English only; `laion-xlm-roberta-vit-b-32` reads a hundred languages.
"""

domain = "remote-sensing"
task = "retrieval"
adapter = {
    "name": "full",
    "loss": "clip=1,silc=1",
    "loss_options": {"silc": {"contrastive": 0.0}},
    "lr": 1e-5,
    "warmup": 0.1,
    "epochs": 10,
    "batch_size": 64,
}
