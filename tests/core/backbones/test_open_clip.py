import json

import pytest
import torch
from parity_checks.towers import tiny_clip
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from vladapt.core.backbones import open_clip
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError, DataError

TEXTS = ["a photo of a cat.", "a much longer photo of a very old dog", "sea"]


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_equals_the_reference_code_on_the_tiny_clip(agrees):
    agrees(tiny_clip)


def test_an_image_tower_alone_has_no_text(small, tmp_path, pixels):
    spec = small.write_open_clip(tmp_path, small.open_clip_config(), image_only=True)
    backbone = load_backbone(spec, "cpu")
    assert backbone.encode_image(pixels).shape == (3, 24)
    assert backbone.capabilities == {"image_blocks", "hidden", "image_tokens", "feature_maps"}
    with pytest.raises(CapabilityError, match="image tower only"):
        backbone.encode_text(TEXTS)


def test_everything_but_the_towers_is_known_before_they_are_built(open_clip_vit):
    backbone = load_backbone(open_clip_vit, "cpu")
    assert (backbone.embed_dim, backbone.image_size, backbone.context_length) == (24, 32, 16)
    assert backbone.image_mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert backbone.image_std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert len(backbone.fingerprint) == 16
    assert "trim" in backbone.capabilities
    assert backbone.preprocess().spec["image_size"] == 32
    assert backbone.tokenize(TEXTS).shape == (3, 16)
    assert backbone._model is None


def test_building_is_frozen_in_eval_mode_and_leaves_the_seed_alone(open_clip_vit, pixels):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    backbone = load_backbone(open_clip_vit, "cpu")
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert torch.equal(torch.rand(1), expected)
    backbone.model.requires_grad_(True)
    (backbone.encode_image(pixels).sum() + backbone.encode_text(TEXTS).sum() + backbone.logit_scale).backward()
    without = [name for name, p in backbone.model.named_parameters() if p.grad is None]
    assert without == []


class Drawing(TorchFunctionMode):
    """Notes which random numbers modules are filled with."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen |= {func.__name__} & {"normal_", "uniform_"}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("where", ["file", "random"])
def test_weights_that_are_read_are_not_drawn_before(open_clip_vit, where):
    backbone = load_backbone(open_clip_vit if where == "file" else f"{open_clip_vit.split('@')[0]}@random", "cpu")
    with Drawing() as drawing:
        weights = backbone.model.state_dict()
    assert drawing.seen == (set() if where == "file" else {"normal_", "uniform_"})
    assert all(value.isfinite().all() for value in weights.values())


def test_a_text_is_split_once_and_read_alike_afterwards(open_clip_vit, monkeypatch):
    from open_clip import SimpleTokenizer

    read, encode = [], SimpleTokenizer.encode
    monkeypatch.setattr(SimpleTokenizer, "encode", lambda self, text: read.append(text) or encode(self, text))
    monkeypatch.setattr(open_clip, "MOST_TEXTS", 2)
    open_clip._simple_tokenizer.cache_clear()
    backbone = load_backbone(open_clip_vit, "cpu")
    first = backbone.tokenize(["cat", "dog"])
    assert torch.equal(backbone.tokenize(["cat", "dog"]), first) and read == ["cat", "dog"]
    assert torch.equal(backbone.tokenize(["sea", "cat", "dog"])[1:], first) and read[2:] == ["sea", "cat", "dog"]
    open_clip._simple_tokenizer.cache_clear()


@pytest.mark.parametrize("words", [515, 4096, 49407, 49408])
def test_a_tower_of_few_words_has_the_most_frequent(small, tmp_path, words):
    """Whatever is not among them is read letter by letter; padding and the order of the ends stay."""
    import open_clip

    config = small.open_clip_config()
    config["text_cfg"]["vocab_size"] = words
    backbone = load_backbone(small.write_open_clip(tmp_path, config), "cpu")
    table = open_clip.SimpleTokenizer(context_length=16)
    marks = [[words - 2], [words - 1]]
    for text in ("a cat", "zq", "a photo of a dog"):
        tokens, plain = backbone.tokenize(text)[0], table(text)[0]
        ids = tokens[: int(tokens.argmax()) + 1].tolist()
        assert [ids[:1], ids[-1:]] == marks and max(ids) < words and not tokens[len(ids) :].any()
        assert "".join(table.decoder[i] for i in ids[1:-1]).replace("</w>", " ").strip() == text
        if words >= 49407:  # the word that is missing joins nothing here
            assert ids[1:-1] == plain[1 : int(plain.argmax())].tolist()
    letters = len(backbone.tokenize("cat")[0].nonzero()) - 2
    assert letters == (1 if words > 4000 else 3)
    assert backbone.mask_token == words - 3 and backbone.word_ids[-1] == words - 4
    assert backbone.encode_text(["a cat", "zq"]).isfinite().all()


def test_features_are_the_librarys(open_clip_vit, pixels):
    import open_clip

    backbone = load_backbone(open_clip_vit, "cpu")
    config = json.loads(backbone.source.folder.joinpath("tiny.json").read_text())
    model = open_clip.model.CLIP(**config).eval()
    model.load_state_dict(load_file(backbone.source.weights))
    tokens = backbone.tokenize(TEXTS)
    assert torch.equal(tokens, open_clip.SimpleTokenizer(context_length=16)(TEXTS))
    with torch.no_grad():
        images, texts = model.encode_image(pixels), model.encode_text(tokens)
        torch.testing.assert_close(backbone.encode_image(pixels, False), images, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(backbone.encode_text(TEXTS, False), texts, atol=1e-5, rtol=1e-5)
        assert backbone.encode_text(TEXTS).norm(dim=-1).sub(1).abs().max() < 1e-6
        assert torch.equal(backbone.logit_scale, model.logit_scale.exp())


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "openai", "half"])
def test_checkpoints_of_every_packing_are_the_same_weights(open_clip_vit, tmp_path, wrap, pixels):
    backbone = load_backbone(open_clip_vit, "cpu")
    state = load_file(backbone.source.weights)
    packed = {
        "plain": state,
        "state_dict": {"epoch": 3, "state_dict": state},
        "module": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "openai": {**state, "input_resolution": torch.tensor(32), "context_length": torch.tensor(16)},
        "half": {key: value.half() for key, value in state.items()},
    }[wrap]
    torch.save(packed, tmp_path / "w.pt")
    other = load_backbone(f"open_clip:{backbone.source.folder / 'tiny.json'}@{tmp_path / 'w.pt'}", "cpu")
    tolerance = 2e-2 if wrap == "half" else 1e-6
    assert (other.encode_image(pixels) - backbone.encode_image(pixels)).abs().max() < tolerance
    assert next(other.model.parameters()).dtype == torch.float32


def test_weights_of_the_old_layout_fit_a_model_with_a_text_module_of_its_own(open_clip_vit, tmp_path):
    backbone = load_backbone(open_clip_vit, "cpu")
    config = json.loads((backbone.source.folder / "tiny.json").read_text())
    (tmp_path / "custom.json").write_text(json.dumps({**config, "custom_text": True}))
    custom = load_backbone(f"open_clip:{tmp_path / 'custom.json'}@{backbone.source.weights}", "cpu")
    torch.testing.assert_close(custom.encode_text(TEXTS), backbone.encode_text(TEXTS), atol=1e-6, rtol=1e-6)


def test_the_fingerprint_follows_weights_architecture_and_preprocessing(open_clip_vit, tmp_path):
    one = load_backbone(open_clip_vit, "cpu")
    config = json.loads((one.source.folder / "tiny.json").read_text())
    state = load_file(one.source.weights)

    def variant(name, config=config, state=state):
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        save_file(state, tmp_path / f"{name}.safetensors")
        return load_backbone(f"open_clip:{tmp_path / name}.json@{tmp_path / name}.safetensors", "cpu").fingerprint

    assert variant("same") == one.fingerprint == load_backbone(open_clip_vit, "cpu").fingerprint
    others = [
        variant("gelu", {**config, "quick_gelu": False}),
        variant("weights", state={**state, "logit_scale": state["logit_scale"] + 1}),
        variant("mean", {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}),
        load_backbone(open_clip_vit, "cpu", image_size=48).fingerprint,
    ]
    assert len({one.fingerprint, *others}) == 5


def test_the_configurations_preprocessing_is_obeyed(open_clip_vit, tmp_path):
    one = load_backbone(open_clip_vit, "cpu")
    config = json.loads((one.source.folder / "tiny.json").read_text())
    stated = {"mean": [0.1, 0.2, 0.3], "std": 0.5, "interpolation": "bilinear", "resize_mode": "squash"}
    (tmp_path / "c.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": stated}))
    transform = load_backbone(f"open_clip:{tmp_path / 'c.json'}@{one.source.weights}", "cpu").preprocess()
    assert (transform.mean, transform.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert (transform.interpolation, transform.mode) == ("bilinear", "squash")


def test_an_architecture_brings_its_usual_preprocessing(open_clip_vit):
    weights = load_backbone(open_clip_vit, "cpu").source.weights
    siglip = load_backbone(f"open_clip:ViT-B-16-SigLIP@{weights}", "cpu").preprocess()
    assert (siglip.mean, siglip.mode) == ((0.5, 0.5, 0.5), "squash")
    assert load_backbone(f"open_clip:RN50@{weights}", "cpu").preprocess().mode == "shortest"


def test_capabilities_are_those_of_the_tower_at_hand(open_clip_vit, open_clip_resnet):
    whole = {"image_blocks", "text_blocks", "prompt", "trim", "hidden", "image_tokens", "feature_maps"}
    assert load_backbone(open_clip_vit, "cpu").capabilities == whole
    assert load_backbone(open_clip_resnet, "cpu").capabilities == whole - {"image_blocks"}


@pytest.mark.parametrize(("fixture", "size"), [("open_clip_vit", 48), ("open_clip_resnet", 96)])
def test_another_image_size_resamples_the_positions(request, fixture, size):
    spec = request.getfixturevalue(fixture)
    own, larger = load_backbone(spec, "cpu"), load_backbone(spec, "cpu", image_size=size)
    assert larger.image_size == larger.preprocess().image_size == size
    flat = torch.full((1, 3, size, size), 0.3)
    # On a flat image only the positions tell patches apart: what was learnt must survive their resampling.
    near = (larger.encode_image(flat) * own.encode_image(flat[..., : own.image_size, : own.image_size])).sum()
    assert near > 0.9
    with pytest.raises(ConfigError, match="smaller than one patch"):
        load_backbone(spec, "cpu", image_size=4).encode_image(torch.zeros(1, 3, 4, 4))


def test_a_vit_takes_pixels_of_another_size_as_they_are(open_clip_vit):
    backbone = load_backbone(open_clip_vit, "cpu")
    wide = torch.randn(2, 3, 48, 64)
    tokens, grid = backbone.image_tokens(wide)
    assert grid == (6, 8) and tokens.shape == (2, 48, 24)
    assert backbone.encode_image(wide).shape == (2, 24)


def test_a_resnet_names_the_size_it_takes(open_clip_resnet):
    with pytest.raises(ConfigError, match="takes squares of 64"):
        load_backbone(open_clip_resnet, "cpu").encode_image(torch.zeros(1, 3, 32, 32))


def test_licence_of_released_weights(open_clip_vit):
    assert load_backbone(open_clip_vit, "cpu").licence == "unknown"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}, "tokenizer_kwargs.trust_remote_code"),
        ({"text_cfg": {"tokenizer_kwargs": {"cache_dir": "/"}}}, "tokenizer_kwargs.cache_dir"),
        ({"text_cfg": {"tokenizer_kwargs": "x"}}, "text_cfg is damaged"),
        ({"text_cfg": {"hf_model_name": ["a"]}}, "hf_model_name"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:somebody/model"}}, "timm_model_name"),
    ],
)
def test_a_configuration_that_asks_for_more_than_towers_is_refused(small, tmp_path, part, says):
    spec = small.write_open_clip(tmp_path, small.open_clip_config())
    file = tmp_path / spec.removeprefix("open_clip:").partition("@")[0]
    stated = json.loads(file.read_text())
    model = stated.get("model_cfg", stated)
    for group, options in part.items():
        model[group] = {**model[group], **options}
    file.write_text(json.dumps(stated))
    with pytest.raises(DataError, match=says):
        load_backbone(spec, "cpu")


def test_code_beside_a_tokenizer_is_never_run(small, tmp_path):
    """`tokenizer_kwargs` would hand `trust_remote_code` to the library that loads the tokenizer."""
    mark = tmp_path / "sprung"
    (tmp_path / "tokenization_evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n")
    stated = {"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}, "tokenizer_class": "Evil"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    (tmp_path / "tokenizer.json").write_text("{}")
    config = small.open_clip_config()
    config["text_cfg"]["hf_tokenizer_name"] = "evil"
    backbone = load_backbone(small.write_open_clip(tmp_path, config), "cpu")
    with pytest.raises(DataError, match="cannot be read"):
        backbone.tokenize(TEXTS)
    assert not mark.exists()


def test_weights_that_are_no_numbers_are_refused(small, tmp_path):
    spec = small.write_open_clip(tmp_path, small.open_clip_config())
    file = spec.rpartition("@")[2]
    state = load_file(file)
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, file)
    with pytest.raises(DataError, match=r"visual\.proj holds NaN"):
        load_backbone(spec, "cpu").encode_text(TEXTS)


def test_a_configuration_of_towers_far_larger_than_their_weights_is_refused(small, tmp_path):
    spec = small.write_open_clip(tmp_path, small.open_clip_config())
    file = tmp_path / spec.removeprefix("open_clip:").partition("@")[0]
    stated = json.loads(file.read_text())
    stated.get("model_cfg", stated)["text_cfg"]["vocab_size"] = 10**9
    file.write_text(json.dumps(stated))
    with pytest.raises(DataError, match=r"far larger than its weights|cannot build"):
        load_backbone(spec, "cpu").encode_text(TEXTS)
