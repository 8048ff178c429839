"""Tiny random models in the shape and layout that each published family of open_clip has, from a hub's cache offline:
their features are open_clip's own, and their towers opened step by step are the towers run whole."""

import copy
import json
from types import SimpleNamespace

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

from vladapt.core.backbones.hub import cached_file
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.split_attention import merge_attention, split_attention
from vladapt.core.errors import CapabilityError, ConfigError, DataError

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TEXTS = ["a photo of a cat", "the small green sea lake . dog", "dog"]
SPECIAL = {"pad": 0, "unknown": 1, "start": 2, "end": 3}
ROBERTA_SPECIAL = {"pad": 1, "unknown": 3, "start": 0, "end": 2}
OWN_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
OWN_IMAGE = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
SIGLIP_TEXT = {**OWN_TEXT, "vocab_size": 40, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
SIGLIP_TEXT |= {"hf_tokenizer_name": "someone/siglip", "tokenizer_kwargs": {"clean": "canonicalize"}}
SIGLIP_TEXT |= {"norm_kwargs": {"eps": 1e-6}}
BERT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}


def timm_image(name: str, pool: str, proj: str | None, size: int = 224) -> dict:
    return {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": proj,
        "image_size": size,
    }


def bert_text(name: str, **more) -> dict:
    return {"hf_model_name": name, "hf_tokenizer_name": name, "context_length": 16, **more}


CLS_MLP = {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp"}
SHAPES = {
    "quiltnet": {"vision_cfg": OWN_IMAGE, "text_cfg": OWN_TEXT},
    "biomedclip": {
        "vision_cfg": timm_image("vit_base_patch16_224", "", "linear"),
        "text_cfg": bert_text("someone/bert", **CLS_MLP),
    },
    "rs-m-clip": {"vision_cfg": OWN_IMAGE, "text_cfg": bert_text("someone/xlm-roberta", hf_pooler_type="mean_pooler")},
    "bert-pooler": {
        "vision_cfg": OWN_IMAGE,
        "text_cfg": bert_text("someone/bert", hf_pooler_type="cls_pooler", hf_proj_type="linear"),
    },
    "siglip": {
        "vision_cfg": timm_image("vit_base_patch16_siglip_224", "map", "none"),
        "text_cfg": SIGLIP_TEXT,
        "init_logit_bias": -10,
    },
    "pe-core": {"vision_cfg": timm_image("vit_pe_core_base_patch16_224", "map", None), "text_cfg": OWN_TEXT},
    "eva02": {"vision_cfg": timm_image("eva02_base_patch16_clip_224", "token", None), "text_cfg": OWN_TEXT},
    "eva01": {"vision_cfg": timm_image("eva_giant_patch14_clip_224", "token", None), "text_cfg": OWN_TEXT},
    "mobileclip-b": {"vision_cfg": timm_image("vit_base_mci_224", "token", None), "text_cfg": OWN_TEXT},
    "mobileclip-s": {
        "vision_cfg": timm_image("fastvit_mci1", "avg", None, 256),
        "text_cfg": {**OWN_TEXT, "no_causal_mask": True},
    },
    "vitamin": {"vision_cfg": timm_image("vitamin_base_224", "", "linear"), "text_cfg": OWN_TEXT},
    "convnext": {"vision_cfg": timm_image("convnext_base", "", "linear", 256), "text_cfg": OWN_TEXT},
}
BERTS = ("biomedclip", "rs-m-clip", "bert-pooler")
CONVOLUTIONS = ("mobileclip-s", "convnext")
WITH_BLOCKS = [name for name in SHAPES if name not in CONVOLUTIONS]
ALL = {"prompt", "trim", "image_blocks", "text_blocks", "image_tokens", "hidden", "feature_maps"}
LACKS = {"siglip": {"trim"}, "mobileclip-s": {"trim", "image_blocks"}, "convnext": {"image_blocks"}}
WIDTH = {"siglip": 32}


@pytest.fixture(scope="module", autouse=True)
def tiny_timm():
    """timm's builders of these families, made narrow and shallow: the shape of the published ones at a test's size."""
    tiny = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    maps = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 32)}
    models = timm.models
    stem = models.vision_transformer_hybrid.ConvStem((3), channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2),
                                                     padding=0, act_layer=torch.nn.GELU)  # fmt: skip
    stages = models.vitamin.VitCfg(
        embed_dim=(8, 16, 32), depths=(1, 1, 1), stem_width=8, head_type="1d",
        conv_cfg=models.vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
    )  # fmt: skip
    changes = [
        (models.vision_transformer, "_create_vision_transformer", tiny),
        (models.eva, "_create_eva", {**tiny, "attn_pool_num_heads": 2}),
        (models.vision_transformer_hybrid, "_create_vision_transformer_hybrid", {**tiny, "backbone": stem}),
        (models.vitamin, "_create_vitamin", {**tiny, "embed_cfg": stages}),
        (models.fastvit, "_create_fastvit", {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32)}),
        (models.convnext, "_create_convnext", maps),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module, name, change in changes:
            patch.setattr(module, name, _changed(getattr(module, name), change))
        yield


def _changed(build, change: dict):
    def built(variant, **options):
        return build(variant, **{**options, **copy.deepcopy(change)})

    return built


@pytest.fixture(scope="module")
def published(tmp_path_factory, small):
    """name -> the model as it is published, in a folder, and open_clip's own of the same weights; made once."""
    made = {}
    texts = tmp_path_factory.mktemp("texts")
    for kind, special in (("bert", SPECIAL), ("xlm-roberta", ROBERTA_SPECIAL)):
        config = transformers.AutoConfig.for_model(
            kind, **BERT, max_position_embeddings=18, pad_token_id=special["pad"], type_vocab_size=2
        )
        config.save_pretrained(texts / kind)
        small.write_tokenizer(texts / kind, special)
    siglip = tmp_path_factory.mktemp("siglip")
    small.write_tokenizer(siglip, SPECIAL)

    def of(name):
        if name in made:
            return made[name]
        folder = tmp_path_factory.mktemp(name)
        config = {"embed_dim": WIDTH.get(name, 24), "custom_text": name != "quiltnet", **copy.deepcopy(SHAPES[name])}
        built = copy.deepcopy(config)
        custom = built.pop("custom_text")
        text_model = None
        if "hf_model_name" in built["text_cfg"]:
            text_model = texts / built["text_cfg"]["hf_model_name"].partition("/")[2]
            built["text_cfg"] |= {"hf_model_name": str(text_model), "hf_model_pretrained": False}
        kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
        model = small.scrambled(kind(**built), seed=5).eval()
        pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic", "resize_mode": "squash"}
        stated = {"model_cfg": config, "preprocess_cfg": pixels}
        (folder / "open_clip_config.json").write_text(json.dumps(stated))
        state = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
        if text_model is not None:  # as files of older versions have it
            state["text.transformer.embeddings.position_ids"] = torch.arange(18)[None]
        save_file(state, folder / "open_clip_model.safetensors")
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
        made[name] = SimpleNamespace(folder=folder, model=model, text_model=text_model, siglip=siglip)
        return made[name]

    return of


@pytest.fixture
def tower(published, hub):
    """name -> the backbone, from the hub's cache."""

    def of(name, **options):
        model = published(name)
        hub(f"someone/{name}", model.folder)
        if model.text_model is not None:
            hub(SHAPES[name]["text_cfg"]["hf_model_name"], model.text_model)
        if name == "siglip":
            hub("someone/siglip", model.siglip)
        return load_backbone(f"open_clip:hf-hub:someone/{name}", "cpu", **options)

    return of


def pixels_of(backbone, count: int = 2, size: int | None = None) -> torch.Tensor:
    side = size or backbone.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", SHAPES)
def test_features_and_tokens_are_open_clips_own(tower, published, name):
    backbone, model = tower(name), published(name).model
    assert backbone.capabilities == ALL - LACKS.get(name, set())
    assert backbone.licence == "mit" and backbone.transform.std == (0.5, 0.6, 0.7)
    pixels, tokens = pixels_of(backbone), backbone.tokenize(TEXTS)
    with torch.no_grad():
        images, texts = model.encode_image(pixels), model.encode_text(tokens)
    assert images.std() > 1e-2 and texts.std() > 1e-2
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), images, **CLOSE)
    torch.testing.assert_close(backbone.encode_text(TEXTS, normalize=False), texts, **CLOSE)
    assert torch.equal(backbone.logit_scale, model.logit_scale.exp().detach())
    special = ROBERTA_SPECIAL if name == "rs-m-clip" else SPECIAL
    if name in (*BERTS, "siglip"):
        assert tokens[2].tolist() == [special["start"], 4 + 5, special["end"], *[special["pad"]] * 13]


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_image_blocks_one_by_one_are_the_tower(tower, name):
    backbone = tower(name)
    pixels = pixels_of(backbone)
    whole = backbone.encode_image(pixels, normalize=False)
    x = backbone.embed_image(pixels)
    for block in range(len(backbone.blocks("image"))):
        x = backbone.run_blocks("image", x, block, block + 1)
    torch.testing.assert_close(backbone.pool_image(x, normalize=False), whole, **CLOSE)
    assert backbone.image_grid(pixels) == (backbone.image_size // backbone.image_stride,) * 2


@pytest.mark.parametrize("name", SHAPES)
def test_hidden_tokens_and_maps(tower, name):
    backbone = tower(name)
    pixels = pixels_of(backbone)
    features = backbone.encode_image(pixels, normalize=False)
    hidden = backbone.hidden(pixels)
    torch.testing.assert_close(backbone.project(hidden, normalize=False), features, **CLOSE)
    matrix = backbone.image_projection()
    if matrix is not None:
        bias = 0 if matrix.bias is None else matrix.bias
        torch.testing.assert_close(hidden @ matrix.weight + bias, features, **CLOSE)
        assert hidden.shape[1] == matrix.weight.shape[0]
    assert (matrix is None) == (name == "siglip")
    tokens, (rows, columns) = backbone.image_tokens(pixels)
    assert tokens.shape == (2, rows * columns, backbone.embed_dim) and torch.isfinite(tokens).all()
    maps = backbone.feature_maps(pixels)
    assert maps[-1].shape[-2:] == (rows, columns)
    made = backbone.image_outputs(pixels, frozenset({"image_features", "image_hidden", "image_tokens"}))
    torch.testing.assert_close(made["image_features"], F.normalize(features, dim=-1), **CLOSE)
    torch.testing.assert_close(made["image_tokens"], tokens, **CLOSE)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_pool_their_map_and_its_cells(tower, name):
    backbone = tower(name)
    pixels = pixels_of(backbone)
    pooled = backbone.pool_map(backbone.feature_maps(pixels)[-1])
    torch.testing.assert_close(pooled[:, 0], backbone.encode_image(pixels, normalize=False), **CLOSE)
    torch.testing.assert_close(pooled[:, 1:], backbone.image_tokens(pixels)[0], **CLOSE)
    assert backbone.image_stride == backbone.image_size // backbone.feature_maps(pixels)[-1].shape[-1]
    with pytest.raises(CapabilityError, match=r"no transformer blocks of the image tower; .*other models of open_clip"):
        backbone.blocks("image")


@pytest.mark.parametrize("name", SHAPES)
def test_text_blocks_one_by_one_are_the_tower_and_trimming_changes_nothing(tower, published, name):
    backbone = tower(name)
    tokens = backbone.tokenize(TEXTS)
    mask, whole = backbone.token_mask(tokens), backbone.encode_tokens(tokens)
    longest = int(mask.sum(dim=1).max())
    lengths = (16, longest) if "trim" in backbone.capabilities else (16,)
    assert longest < 16 or "trim" not in backbone.capabilities or name == "mobileclip-s"
    for length in lengths:
        some = mask[:, :length]
        x = backbone.embed_prompt(backbone.embed_tokens(tokens[:, :length]), some)
        x = backbone.run_blocks("text", backbone.run_blocks("text", x, 0, 1, mask=some), 1, mask=some)
        torch.testing.assert_close(backbone.pool_text(x, some, normalize=False), whole, **CLOSE)


def written_out(text, words: torch.Tensor, mask: torch.Tensor, pooler: str, first: int) -> torch.Tensor:
    """open_clip's BERT on word embeddings, in single sums: no call of transformers, of a kernel, or of our towers."""
    table = text.transformer.embeddings
    rows = []
    for row in range(len(words)):
        length = int(mask[row].sum())
        x = words[row, :length] + table.token_type_embeddings.weight[0]
        x = table.LayerNorm(x + table.position_embeddings.weight[first : first + length])
        for layer in text.transformer.encoder.layer:
            inner, heads = layer.attention.self, []
            q, k, v = inner.query(x), inner.key(x), inner.value(x)
            for head in range(2):
                at = slice(head * 16, head * 16 + 16)
                weights = (q[:, at] @ k[:, at].T / 4).softmax(dim=1)
                heads.append(weights @ v[:, at])
            mixed = layer.attention.output.dense(torch.cat(heads, dim=1))
            x = layer.attention.output.LayerNorm(x + mixed)
            x = layer.output.LayerNorm(x + layer.output.dense(F.gelu(layer.intermediate.dense(x))))
        if pooler == "cls_pooler":
            pooled = torch.tanh(text.transformer.pooler.dense(x[0]))
        else:
            pooled = x.mean(dim=0) if pooler == "mean_pooler" else x[0]
        rows.append(text.proj(pooled))
    return torch.stack(rows)


@pytest.mark.parametrize("name", BERTS)
def test_gradients_of_prompts_equal_a_loop_written_out(tower, published, name):
    backbone, text = tower(name), published(name).model.text
    tokens = backbone.tokenize(TEXTS)
    mask = backbone.token_mask(tokens)
    context = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    fixed = backbone.embed_tokens(tokens).detach()

    def prompts():
        """The first three words of each text, learned."""
        start, rest = fixed[:, :1], fixed[:, 4:]
        return torch.cat([start, context.expand(len(tokens), -1, -1), rest], dim=1)

    mask = mask | (torch.arange(16) < 5)
    weight = torch.linspace(-1, 1, 3 * 24).view(3, 24)
    ours = backbone.encode_prompt(prompts(), mask, normalize=False)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), context)
    first = ROBERTA_SPECIAL["pad"] + 1 if name == "rs-m-clip" else 0
    theirs = written_out(text, prompts(), mask, SHAPES[name]["text_cfg"]["hf_pooler_type"], first)
    (expected,) = torch.autograd.grad((theirs * weight).sum(), context)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(gradient, expected, **CLOSE)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["pe-core", "eva02", "eva01", "biomedclip", "vitamin", "siglip"])
def test_a_replaced_attention_and_learned_tokens_have_their_place(tower, name):
    backbone = tower(name)
    pixels = pixels_of(backbone)
    x = backbone.embed_image(pixels)
    plain = backbone.run_blocks("image", x)

    def values_only(i, block, normal):
        return block.out(block.qkv(normal).chunk(3, dim=-1)[2])

    assert (backbone.run_blocks("image", x, attention=values_only) - plain).abs().max() > 1e-3
    before = backbone.encode_image(pixels)
    tokens = torch.randn(2, 3, backbone.width("image"), generator=torch.Generator().manual_seed(2))
    backbone.attach_prompts(image=tokens)
    after = backbone.encode_image(pixels)
    assert after.shape == before.shape and (after - before).abs().max() > 1e-4
    after.sum().backward()
    assert backbone.prompts.image.tokens.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["pe-core", "eva02", "biomedclip", "rs-m-clip", "siglip"])
def test_attention_split_for_lora_changes_nothing(tower, name):
    backbone = tower(name)
    pixels = pixels_of(backbone)
    images, texts = backbone.encode_image(pixels), backbone.encode_text(TEXTS)
    layers = split_attention(backbone)
    assert {layer.tower for layer in layers} == {"image", "text"}
    torch.testing.assert_close(backbone.encode_image(pixels), images, **CLOSE)
    torch.testing.assert_close(backbone.encode_text(TEXTS), texts, **CLOSE)
    x = backbone.run_blocks("image", backbone.embed_image(pixels))
    torch.testing.assert_close(backbone.pool_image(x), images, **CLOSE)
    merge_attention(backbone)
    torch.testing.assert_close(backbone.encode_image(pixels), images, **CLOSE)


@pytest.mark.parametrize("name", ["pe-core", "eva02"])
def test_rotary_towers_take_another_size_as_timm_does(tower, published, name):
    resized = tower(name, image_size=160)
    pixels = pixels_of(resized)
    inside = resized.pool_image(resized.run_blocks("image", resized.embed_image(pixels)), normalize=False)
    torch.testing.assert_close(inside, resized.encode_image(pixels, normalize=False), **CLOSE)
    own = tower(name)
    torch.testing.assert_close(own.embed_image(pixels), resized.embed_image(pixels), **CLOSE)


@pytest.mark.parametrize("name", ["mobileclip-b", "vitamin"])
def test_a_stem_of_convolutions_names_the_size_it_takes(tower, name):
    with pytest.raises(ConfigError, match=r"pixels of \(160, 160\) do not fit .* takes \(224, 224\) only"):
        tower(name).encode_image(torch.zeros(1, 3, 160, 160))


@pytest.mark.parametrize("name", ["biomedclip", "siglip", "pe-core"])
def test_a_folder_is_the_same_model_as_the_hub(tower, published, hub, name, monkeypatch):
    cached, folder = tower(name), published(name).folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for spec in (f"open_clip:{folder}", f"open_clip:local-dir:{folder}", str(folder)):
        backbone = load_backbone(spec, "cpu")
        assert backbone.fingerprint == cached.fingerprint and backbone.spec == spec
        torch.testing.assert_close(backbone.encode_text(TEXTS), cached.encode_text(TEXTS), **CLOSE)


@pytest.mark.parametrize("name", ["biomedclip", "siglip"])
def test_trained_towers_load_again_where_there_is_no_hub(tower, tmp_path, name, monkeypatch):
    backbone = tower(name)
    with torch.no_grad():
        backbone.model.logit_scale.add_(0.5)
    texts = backbone.encode_text(TEXTS)
    path = save_fine_tuned(backbone, tmp_path / "trained")
    name = backbone.source.config["text_cfg"]["hf_tokenizer_name"]
    for file in (cached_file(name, [file]) for file in ("tokenizer.json", "tokenizer_config.json")):
        (tmp_path / "trained" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nowhere"))
    again = load_backbone(str(path), "cpu")
    torch.testing.assert_close(again.encode_text(TEXTS), texts, **CLOSE)
    assert torch.equal(again.logit_scale, backbone.logit_scale)
    assert again.capabilities == backbone.capabilities


def test_a_text_tower_without_its_configuration_says_where_it_comes_from(published, hub):
    hub("someone/biomedclip", published("biomedclip").folder)
    with pytest.raises(DataError, match=r"'someone/bert' is not in the hub's cache .*hf download someone/bert config"):
        load_backbone("open_clip:hf-hub:someone/biomedclip", "cpu")


def test_a_text_tower_of_another_kind_encodes_whole_texts_and_has_no_prompts(published, hub, tmp_path):
    model = published("biomedclip")
    hub("someone/biomedclip", model.folder)
    stated = json.loads((model.text_model / "config.json").read_text())
    for word, said in (("mt5", CapabilityError), (3, DataError)):
        hub("someone/bert", {"config.json": json.dumps({**stated, "model_type": word}).encode()})
        with pytest.raises(said):
            load_backbone("open_clip:hf-hub:someone/biomedclip", "cpu").embed_tokens(torch.zeros(1, 16).long())
