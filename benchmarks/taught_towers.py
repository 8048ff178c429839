"""Do translated sentences bring a text tower of another language to the images?

The figures are in docs/measurements/joined-towers.md.

    python benchmarks/taught_towers.py [--seeds 0,1,2,3,4] [--sentences 100,1000] [--scores FILE]

Drawn pictures of 32 pixels show one to three things of a colour and a shape at a border, by night or by day, and
sentences say it in English, German and Japanese, of drawn words that have nothing in common. A small CLIP of its own
learns pictures with English sentences. A German and a Japanese text tower, small BERTs with random weights and
tokenizers of their own, then see so many sentences with their translations, and no picture:

* `join --sentences`: the tower stays as it is; a linear map, chosen by cross-validation, brings its features to what
  CLIP's own texts say of the English sentence.
* `pretrain --recipe m-clip`: the tower and a linear layer learn the same, at a rate of 2e-3, since nothing in them is
  trained yet, in 200 steps of 64.

R@1 in per cent, the mean of both ways, among 300 pictures that nobody saw and a sentence for each; sentences that say
the same count as right. Mean over draws, plus or minus half of its 95 % interval by Student's t; the last column is the
mean difference of the two before it within a draw. What FILE holds of an earlier call is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from curation_pool import CLASSES, COLOURS, NUMBERS, PLACES, SHAPES, TIMES, drawn_pool
from joined_towers import table
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from vladapt import load_backbone
from vladapt.core.backbones.join import JoinedBackbone
from vladapt.core.backbones.lexical import encoded_by_tower
from vladapt.core.backbones.shared_spaces import LinearSpace, TextHead
from vladapt.core.backbones.text_towers import text_side
from vladapt.core.backbones.tower_maps import choose_map
from vladapt.core.data.pairs.text_pairs import read_text_pairs
from vladapt.core.tasks.pretraining.options import plan_of_recipe
from vladapt.core.training.sources import TextSource
from vladapt.core.training.teachers import own_texts
from vladapt.core.training.train import TrainingTask, train

TAUGHT, HELD_OUT = 4000, 300
BATCH, STEPS_OF_CLIP, RATE = 128, 300, 2e-3
STEPS, BATCH_OF_SENTENCES, RATE_OF_SENTENCES = 200, 64, 2e-3
SAID = 0.8
LONGEST = 16
WIDTH, LAYERS, HEADS = 64, 2, 2
LANGUAGES = ("German", "Japanese")
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
WORDS = {
    "German": "rot grün blau gelb Kreis Quadrat Dreieck Kreuz Raute Ring ein zwei drei links rechts oben unten "
    "nachts tags",
    "Japanese": "あか みどり あお きいろ まる しかく さんかく ばつ ひし わ ひとつ ふたつ みっつ ひだり みぎ うえ した "
    "よる ひる",
}
ENGLISH = (*COLOURS, *SHAPES, *NUMBERS, *PLACES, *TIMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--sentences", default="100,1000")
    parser.add_argument("--scores", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = asked.scores.read_text(encoding="utf-8").splitlines() if asked.scores and asked.scores.is_file() else []
    draws = {draw["seed"]: draw["rows"] for draw in map(json.loads, lines)}
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    for seed in [seed for seed in seeds if seed not in draws]:
        with tempfile.TemporaryDirectory() as folder:
            counts = [int(count) for count in asked.sentences.split(",")]
            draws[seed] = dict(measured(Path(folder), seed, counts))
        line = json.dumps({"seed": seed, "rows": draws[seed]})
        print(line, flush=True)
        if asked.scores:
            with asked.scores.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    scores = [draws[seed] for seed in seeds]
    rows = {row: {name: [draw[row][name] for draw in scores] for name in scores[0][row]} for row in scores[0]}
    for of in rows.values():
        of["m-clip less join"] = [taught - mapped for taught, mapped in zip(of["m-clip"], of["join --sentences"])]
    print(table("sentences", rows))


def measured(folder: Path, seed: int, counts: list[int]):
    """(row, scores by column) of one draw."""
    pool = drawn_pool(TAUGHT + HELD_OUT, 7000 + seed, {})
    images, facts = pool.images, pool.facts
    random = np.random.default_rng(seed)
    english = [sentence("English", row, random) for row in facts[HELD_OUT:]]
    clip = trained_clip(folder / "clip", images[HELD_OUT:], english, seed)
    seen = encoded_images(clip, images[:HELD_OUT])
    said = [" ".join(map(str, row)) for row in facts[:HELD_OUT]]
    own = recall(seen, clip.encode_text([whole("English", row) for row in facts[:HELD_OUT]]), said)
    for language in LANGUAGES:
        asked = [whole(language, row) for row in facts[:HELD_OUT]]
        for count in counts:
            drawn = random.permutation(TAUGHT)[:count] + HELD_OUT
            texts = [translated(language, facts[row], random) for row in drawn]
            tower = written_tower(folder / f"{language}-{count}", [text for _, text in texts], seed)
            side = text_side(f"hf:{tower}", load_backbone)
            mapped, taught = joined(clip, side, texts, seed), learned(clip, side, texts, folder, seed)
            scores = {"CLIP's own English": own}
            scores["join --sentences"] = recall(seen, mapped.encode_text(asked), said)
            scores["m-clip"] = recall(seen, taught.encode_text(asked), said)
            yield f"{language}, {count:,}", scores


def whole(language: str, facts: np.ndarray) -> str:
    """All that a picture shows."""
    return sentence(language, facts, None)


def sentence(language: str, facts: np.ndarray, random: np.random.Generator | None) -> str:
    """The class, and each of number, place and time in four of five sentences."""
    said = [True] * 3 if random is None else (random.random(3) < SAID).tolist()
    return worded(language, facts, said)


def translated(language: str, facts: np.ndarray, random: np.random.Generator) -> tuple[str, str]:
    """An English sentence, and the same in another language."""
    said = (random.random(3) < SAID).tolist()
    return worded("English", facts, said), worded(language, facts, said)


def worded(language: str, facts: np.ndarray, said: list[bool]) -> str:
    """Each language has an order of its own, and Japanese no blanks."""
    words = dict(zip(ENGLISH, ENGLISH if language == "English" else WORDS[language].split(), strict=True))
    (colour, shape), number = CLASSES[facts[0]], NUMBERS[facts[1]] if said[0] else ""
    place, time = PLACES[facts[2]] if said[1] else "", TIMES[facts[3]] if said[2] else ""
    order = {
        "English": (number, colour, shape, place, time),
        "German": (time, place, number, shape, colour),
        "Japanese": (place, time, colour, shape, number),
    }[language]
    return ("" if language == "Japanese" else " ").join(words[word] for word in order if word)


def trained_clip(folder: Path, images: np.ndarray, texts: list[str], seed: int):
    """A small CLIP of transformers that has seen pictures with English sentences, as a backbone."""
    torch.manual_seed(seed)
    tower = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": HEADS}
    tokenizer = written_tokenizer(folder, texts)
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    of_text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": LONGEST}
    of_image = {**tower, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=of_text, vision_config=of_image, projection_dim=WIDTH)).train()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    tokens = tokenizer(texts, padding="max_length", max_length=LONGEST, truncation=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    order = np.random.default_rng(seed)
    for step in range(STEPS_OF_CLIP):
        rows = torch.from_numpy(order.integers(len(texts), size=BATCH))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 50, 0.5 + 0.5 * np.cos(np.pi * step / STEPS_OF_CLIP))
        optimizer.zero_grad()
        given = {name: value[rows] for name, value in tokens.items() if name in ("input_ids", "attention_mask")}
        model(pixel_values=pixels[rows], return_loss=True, **given).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval().save_pretrained(folder)
    square = {"height": 32, "width": 32}
    how = {"size": square, "crop_size": square, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    CLIPImageProcessor(**how).save_pretrained(folder)
    return load_backbone(f"hf:{folder}", "cpu")


def written_tower(folder: Path, texts: list[str], seed: int) -> Path:
    """A small BERT with random weights, pooled by its mean."""
    torch.manual_seed(1000 + seed)
    tokenizer = written_tokenizer(folder, texts)
    how = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS}
    config = BertConfig(vocab_size=len(tokenizer), num_attention_heads=HEADS, max_position_embeddings=LONGEST, **how)
    BertModel(config).save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps([{"type": "models.Transformer", "path": ""}]))
    return folder


def written_tokenizer(folder: Path, texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte pairs of these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=list(SPECIAL.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    pair = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pair)
    ends = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, **SPECIAL, **ends)
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    return made


def joined(clip, side, texts: list[tuple[str, str]], seed: int) -> JoinedBackbone:
    """What `join --sentences` makes, of all the sentences."""
    target = clip.encode_text([english for english, _ in texts]).double()
    source = F.normalize(encoded_by_tower(side, [other for _, other in texts]).double(), dim=1)
    groups = np.unique(np.array([english for english, _ in texts]), return_inverse=True)[1]
    fitted, _ = choose_map(source, target, groups, seed)
    return JoinedBackbone(clip, side, LinearSpace.of_texts(fitted), float(clip.logit_scale), "joined")


def learned(clip, side, texts: list[tuple[str, str]], folder: Path, seed: int) -> JoinedBackbone:
    """What `pretrain --recipe m-clip` makes."""
    torch.manual_seed(seed)
    backbone = JoinedBackbone(clip, side, TextHead(clip.embed_dim, side.width), float(clip.logit_scale), "joined")
    file = folder / "sentences.jsonl"
    file.write_text("".join(json.dumps({"en": one, "other": two}) + "\n" for one, two in texts))
    pairs = read_text_pairs(file, ("en", "other"), val=0.0, test=0.0)
    batch = min(BATCH_OF_SENTENCES, len(pairs))
    settings = {
        "batch_size": batch,
        "lr": RATE_OF_SENTENCES,
        "seed": seed,
        "epochs": -(-STEPS // (len(pairs) // batch)),
    }
    sets = [f"steps={STEPS}", "warmup=40", "workers=0"]
    how = {"data.path": str(file), "out": "out", "backbone": "embedded", "device": "cpu"}
    plan = plan_of_recipe("m-clip", losses=None, settings=settings, sets=sets, **how)
    task = TrainingTask(source=TextSource(pairs), losses=plan.losses, teachers=own_texts(backbone, plan.losses))
    train(backbone, task, plan.settings, None)
    return backbone


def encoded_images(clip, images: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.no_grad():
        return clip.encode_image(pixels)


def recall(images: Tensor, texts: Tensor, said: list[str]) -> float:
    names = np.array(said)
    cosines = (images @ texts.detach().T).numpy()
    shares = [(names[cosines.argmax(axis=axis)] == names).mean() for axis in (0, 1)]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
