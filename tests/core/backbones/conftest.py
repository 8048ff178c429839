"""Small random models of every family, written to disk the way users have them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # toy_pairs, sources of trainings

OPEN_CLIP = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def open_clip_config(vision: dict | None = None, text: dict | None = None, **top) -> dict:
    """The small configuration with changes; a value of None takes the key away."""
    config = copy.deepcopy(OPEN_CLIP)
    for part, changes in ((config["vision_cfg"], vision), (config["text_cfg"], text), (config, top)):
        for key, value in (changes or {}).items():
            part[key] = value
            if value is None:
                del part[key]
    return config


def write_open_clip(
    folder: Path, config: dict, seed: int = 0, suffix: str = ".safetensors", image_only: bool = False
) -> str:
    """Write config and seeded random weights, of the image tower alone where asked; returns the spec."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    told = {key: value for key, value in config.items() if not (image_only and key == "text_cfg")}
    (folder / "tiny.json").write_text(json.dumps(told))
    built = copy.deepcopy(config)
    kind = open_clip.model.CustomTextCLIP if built.pop("custom_text", False) else open_clip.model.CLIP
    model = scrambled(kind(**{k: v for k, v in built.items() if k != "preprocess_cfg"}), seed)
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    if image_only:
        state = {name: value for name, value in state.items() if name.startswith("visual.")}
    weights = folder / f"tiny{suffix}"
    save_file(state, weights) if suffix == ".safetensors" else torch.save(state, weights)
    return f"open_clip:{folder / 'tiny.json'}@{weights}"


def scrambled(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Seeded weights in which nothing is zero or one: a forgotten bias, norm or statistic shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            fresh = torch.randn(value.shape, generator=generator) * 0.2
            if name.endswith(("running_var", "logit_scale", "temperature")):
                fresh = fresh.abs() + 0.5
            elif "norm" in name.lower() or ".ln" in name or name.startswith("ln") or ".bn" in name:
                fresh = fresh + (1.0 if name.endswith("weight") else 0.0)
            value.copy_(fresh)
    return model


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """The makers of small models, for tests that need one of their own."""
    return SimpleNamespace(
        open_clip_config=open_clip_config,
        write_open_clip=write_open_clip,
        write_hf=write_hf,
        write_tokenizer=write_tokenizer,
        scrambled=scrambled,
    )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty cache of the hub, which refuses the connection: call it with a repository and a folder, or file names
    with their content, to have them cached the way the hub's client lays them out."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def put(repo: str, files: Path | dict[str, bytes]) -> Path:
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        snapshot = folder / "snapshots" / "abc"
        snapshot.mkdir(parents=True, exist_ok=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text("abc")
        if isinstance(files, Path):
            files = {str(file.relative_to(files)): file.read_bytes() for file in files.rglob("*") if file.is_file()}
        for name, content in files.items():
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).write_bytes(content)
        return snapshot

    return put


@pytest.fixture(scope="session")
def open_clip_vit(tmp_path_factory) -> str:
    return write_open_clip(tmp_path_factory.mktemp("vit"), open_clip_config())


@pytest.fixture(scope="session")
def open_clip_resnet(tmp_path_factory) -> str:
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}
    return write_open_clip(tmp_path_factory.mktemp("resnet"), open_clip_config(vision))


def write_hf(folder: Path, kind: str, tokenizer: bool = True, seed: int = 0) -> Path:
    """A folder with config.json, model.safetensors and, if wanted, a tokenizer."""
    import transformers

    model = scrambled(transformers.AutoModel.from_config(_hf_config(transformers, kind)), seed)
    model.save_pretrained(folder)
    if tokenizer:
        write_tokenizer(folder, _special(kind))
    return folder


WORDS = ("a", "photo", "of", "the", "cat", "dog", "green", "small", "sea", "lake", ".", "big", "old", "new")
SPECIAL = {"pad": 0, "unknown": 1, "start": 2, "end": 3}
OWL_SPECIAL = {**SPECIAL, "end": 39}  # these read a text at its highest token


def _hf_config(transformers, kind: str):
    special = _special(kind)
    vocab = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": special["start"], "eos_token_id": special["end"]}
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip_vision = {**tower, "image_size": 32, "patch_size": 8, "projection_dim": 24}
    clip_text = {**tower, **vocab, "max_position_embeddings": 16}
    bert_text = {**clip_text, "type_vocab_size": 2}
    align_vision = {
        "image_size": 64, "hidden_dim": 24, "width_coefficient": 1.0, "depth_coefficient": 1.0,
        "kernel_sizes": [3, 3, 3], "in_channels": [32, 8, 16], "out_channels": [8, 16, 24], "strides": [1, 2, 2],
        "num_block_repeats": [1, 1, 1], "expand_ratios": [1, 2, 2], "depthwise_padding": [],
    }  # fmt: skip
    made = {
        "clip": lambda: transformers.CLIPConfig(text_config=clip_text, vision_config=clip_vision, projection_dim=24),
        "siglip": lambda: transformers.SiglipConfig(
            text_config=clip_text, vision_config={**clip_vision, "projection_dim": None}
        ),
        "siglip2": lambda: transformers.Siglip2Config(
            text_config=clip_text, vision_config={**tower, "num_patches": 16, "patch_size": 8}
        ),
        "chinese_clip": lambda: transformers.ChineseCLIPConfig(
            text_config=bert_text, vision_config=clip_vision, projection_dim=24
        ),
        "altclip": lambda: transformers.AltCLIPConfig(
            text_config={**bert_text, "project_dim": 20, "max_position_embeddings": 17},
            vision_config=clip_vision,
            projection_dim=24,
        ),
        "owlvit": lambda: transformers.OwlViTConfig(
            text_config=clip_text, vision_config=clip_vision, projection_dim=24
        ),
        "owlv2": lambda: transformers.Owlv2Config(text_config=clip_text, vision_config=clip_vision, projection_dim=24),
        "align": lambda: transformers.AlignConfig(text_config=bert_text, vision_config=align_vision, projection_dim=24),
    }
    return made[kind]()


def _special(kind: str) -> dict[str, int]:
    return OWL_SPECIAL if kind.startswith("owl") else SPECIAL


def write_tokenizer(folder: Path, special: dict[str, int]) -> None:
    """A tokenizer of words, with the numbers of its special tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {f"<{name}>": index for name, index in special.items()}
    vocab |= {word: len(SPECIAL) + i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", special["start"]), ("<end>", special["end"])]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unknown>", bos_token="<start>", eos_token="<end>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory):
    """kind -> folder of a small random model, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_hf(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return folder
