"""Text encoders of transformers alone, as sentence-transformers publishes them, and text towers of backbones."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vladapt import CapabilityError, ConfigError, DataError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.text_towers import text_side

TEXTS = ["a photo of the cat", "dog", "a big old dog of the sea ."]
ST = "sentence_transformers.models."


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, small):
    """A folder with a small BERT."""
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    small.scrambled(transformers.BertModel(config), 0).save_pretrained(folder)
    small.write_tokenizer(folder, {"pad": 0, "unknown": 1, "start": 2, "end": 3})
    return folder


@pytest.fixture
def published(encoder, tmp_path):
    """`published(pooling config, *further modules)`: the same folder with modules.json."""

    def write(pooling: dict | None, *further: str):
        folder = tmp_path / "published"
        folder.mkdir()
        for file in encoder.iterdir():
            (folder / file.name).symlink_to(file)
        modules = [{"type": f"{ST}Transformer", "path": ""}]
        if pooling is not None:
            modules.append({"type": f"{ST}Pooling", "path": "1_Pooling"})
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        for number, kind in enumerate(further, start=2):
            modules.append({"type": f"{ST}{kind}", "path": f"{number}_{kind}"})
        (folder / "modules.json").write_text(json.dumps(modules))
        return folder

    return write


def encoded(side):
    module = side.module().eval()
    with torch.no_grad():
        return side.encode(module, side.tokenizer()(TEXTS))


def by_transformers(folder):
    """Hidden states, pooled output and mask, by transformers alone."""
    import transformers

    model = transformers.BertModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        made = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return made.last_hidden_state, made.pooler_output, tokens["attention_mask"].bool()


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_a_named_pooling_is_that_of_the_encoder(encoder, pooling):
    hidden, pooled, mask = by_transformers(encoder)
    wanted = {
        "mean": torch.stack([row[of].mean(dim=0) for row, of in zip(hidden, mask)]),
        "cls": hidden[:, 0],
        "pooler": pooled,
    }[pooling]
    side = text_side(f"hf:{encoder}", load_backbone, pooling)
    assert torch.allclose(encoded(side), wanted, atol=1e-5)
    assert (side.width, side.context_length, side.settings) == (32, 16, {"pooling": pooling, "prefix": ""})


@pytest.mark.parametrize(
    "config, wanted",
    [
        ({"pooling_mode": "max"}, lambda hidden, mask: torch.stack([h[m].amax(0) for h, m in zip(hidden, mask)])),
        ({"pooling_mode": "lasttoken"}, lambda hidden, mask: torch.stack([h[m][-1] for h, m in zip(hidden, mask)])),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda hidden, mask: hidden[:, 0]),
    ],
)
def test_a_published_pooling_is_taken(published, config, wanted):
    folder = published({"word_embedding_dimension": 32, **config})
    hidden, _, mask = by_transformers(folder)
    side = text_side(f"hf:{folder}", load_backbone)
    assert torch.allclose(encoded(side), wanted(hidden, mask), atol=1e-5)
    assert text_side(side.spec, load_backbone, **side.settings).identity == side.identity  # as a folder reads it again


def test_dense_layers_and_unit_length_of_a_published_encoder(published):
    folder = published({"pooling_mode": "mean"}, "Dense", "Normalize")
    (folder / "2_Dense").mkdir()
    stated = {
        "in_features": 32,
        "out_features": 12,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (folder / "2_Dense" / "config.json").write_text(json.dumps(stated))
    weights = {"linear.weight": torch.randn(12, 32) / 4, "linear.bias": torch.randn(12)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    hidden, _, mask = by_transformers(folder)
    means = torch.stack([row[of].mean(dim=0) for row, of in zip(hidden, mask)])
    wanted = F.normalize(torch.tanh(means @ weights["linear.weight"].T + weights["linear.bias"]), dim=1)
    side = text_side(f"hf:{folder}", load_backbone)
    assert side.width == 12 and torch.allclose(encoded(side), wanted, atol=1e-5)
    before = side.identity
    save_file({**weights, "linear.bias": torch.zeros(12)}, folder / "2_Dense" / "model.safetensors")
    assert text_side(f"hf:{folder}", load_backbone).identity != before


def test_a_prefix_stands_before_every_text_and_in_the_identity(encoder):
    plain, prefixed = (text_side(f"hf:{encoder}", load_backbone, "mean", prefix) for prefix in ("", "a photo of "))
    assert torch.equal(prefixed.tokenizer()(["dog"]), plain.tokenizer()(["a photo of dog"]))
    assert prefixed.identity != plain.identity


def test_padding_by_the_token_that_ends_a_text_is_not_read(encoder, tmp_path):
    for file in encoder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stated = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**stated, "pad_token": None}))
    side = text_side(f"hf:{tmp_path}", load_backbone, "mean")
    assert side.token_mask(side.tokenizer()(["dog", "a cat"])).sum(dim=1).tolist() == [3, 4]
    without_end = torch.tensor([[2, 5, 6, 7]])
    assert side.token_mask(without_end).all()


def test_the_text_tower_of_a_backbone(small_clip_spec, small_clip):
    side = text_side(small_clip_spec, load_backbone)
    tokens = side.tokenizer()(["a cat"])
    assert torch.equal(side.encode(side.module(), tokens), small_clip.encode_text(["a cat"], normalize=False))
    assert side.capabilities == small_clip.capabilities & {"prompt", "trim", "text_blocks"}


def test_bad_input_is_one_line(encoder, published, small_clip_spec, tmp_path):
    for spec, pooling, error, said in [
        (
            f"hf:{encoder}",
            None,
            ConfigError,
            "does not say how its tokens become one vector.*`vladapt join` --pooling mean, cls or pooler",
        ),
        (f"hf:{encoder}", "sum", ConfigError, "--pooling sum: is not known; give mean, cls, pooler"),
        (small_clip_spec, "mean", ConfigError, "is a backbone, which pools its texts itself"),
        ("timm:resnet18@random:0", None, CapabilityError, "has no text tower"),
    ]:
        with pytest.raises(error, match=said):
            text_side(spec, load_backbone, pooling)
    folder = published({"pooling_mode": "mean"})
    with pytest.raises(ConfigError, match="was published with mean; omit it"):
        text_side(f"hf:{folder}", load_backbone, "cls")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["mean", "max"]}))
    with pytest.raises(DataError, match="pools by mean, max; known here are mean, cls, max, lasttoken"):
        text_side(f"hf:{folder}", load_backbone)
    for module, said in (("WordWeights", "has a module 'WordWeights'"), ("Pooling", "'../x' is no folder beside it")):
        (folder / "modules.json").write_text(json.dumps([{"type": f"{ST}{module}", "path": "../x"}]))
        with pytest.raises(DataError, match=said):
            text_side(f"hf:{folder}", load_backbone)
