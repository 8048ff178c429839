import json
import shutil
import socket
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vladapt import build_loss
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.training.teachers import need_same_words

TEXTS = ["a photo of a cat", "the small green sea lake .", "dog"]
KINDS = ("clip", "siglip", "siglip2", "chinese_clip", "altclip", "align", "owlvit", "owlv2")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a local folder asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def clip_copy(hf_folder, tmp_path):
    """A folder of its own to damage."""
    return shutil.copytree(hf_folder("clip"), tmp_path / "clip")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_loads_offline_and_gives_the_librarys_features(kind, hf_folder, no_network):
    import transformers

    folder = hf_folder(kind)
    backbone = load_backbone(f"hf:{folder}", "cpu")
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    size = backbone.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    tokens = backbone.tokenize(TEXTS)
    assert tokens.shape == (3, backbone.context_length) and tokens.dtype == torch.int64
    mask = backbone.token_mask(tokens).long() if "trim" in backbone.capabilities else None
    with torch.no_grad():
        texts = model.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output
        torch.testing.assert_close(backbone.encode_text(TEXTS, False), texts, atol=1e-5, rtol=1e-5)
        if kind != "siglip2":  # takes patches, not squares; its patches are tested below
            images = model.get_image_features(pixel_values=pixels).pooler_output
            torch.testing.assert_close(backbone.encode_image(pixels, False), images, atol=1e-5, rtol=1e-5)
    assert backbone.encode_image(pixels).shape == (2, backbone.embed_dim)
    assert backbone.encode_text(TEXTS).norm(dim=-1).sub(1).abs().max() < 1e-6


def test_siglip_2_cuts_a_square_into_patches_as_its_processor_does(hf_folder):
    from transformers import Siglip2ImageProcessor

    backbone = load_backbone(f"hf:{hf_folder('siglip2')}", "cpu")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    theirs = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)(image, return_tensors="pt")
    patches, mask, grid = backbone._image.patches(backbone.preprocess()(image)[None])
    torch.testing.assert_close(patches, theirs["pixel_values"], atol=1e-5, rtol=1e-5)
    assert grid.tolist() == theirs["spatial_shapes"].tolist()
    assert torch.equal(mask, theirs["pixel_attention_mask"].long())


@pytest.mark.parametrize("kind", KINDS)
def test_everything_but_the_towers_is_known_before_they_are_built(kind, hf_folder):
    backbone = load_backbone(f"hf:{hf_folder(kind)}", "cpu")
    assert backbone.context_length == 16
    assert backbone.image_size == (64 if kind == "align" else 32)
    assert backbone.embed_dim == (32 if kind.startswith("siglip") else 24)
    assert backbone.image_mean == ((0.5,) * 3 if kind in ("siglip", "siglip2", "align") else backbone.image_mean)
    assert len(backbone.fingerprint) == 16 and backbone.preprocess().spec["image_size"] == backbone.image_size
    assert backbone._model is None
    black = torch.zeros(1, 3, backbone.image_size, backbone.image_size)
    assert backbone.encode_image(black).shape == (1, backbone.embed_dim)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "align"])
def test_another_image_size(kind, hf_folder):
    own = load_backbone(f"hf:{hf_folder(kind)}", "cpu")
    larger = load_backbone(f"hf:{hf_folder(kind)}", "cpu", image_size=own.image_size + 16)
    flat = torch.full((1, 3, larger.image_size, larger.image_size), 0.3)
    near = (larger.encode_image(flat) * own.encode_image(flat[..., : own.image_size, : own.image_size])).sum()
    assert near > 0.9
    assert larger.fingerprint != own.fingerprint


def test_the_folders_preprocessing_is_obeyed(clip_copy):
    stated = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}
    (clip_copy / "preprocessor_config.json").write_text(json.dumps(stated))
    transform = load_backbone(f"hf:{clip_copy}", "cpu").preprocess()
    assert (transform.mode, transform.interpolation) == ("squash", "bilinear")
    assert (transform.mean, transform.std) == (pytest.approx((0.1, 0.2, 0.3)), pytest.approx((0.5, 0.5, 0.5)))
    (clip_copy / "preprocessor_config.json").unlink()
    nested = {"image_processor": {"size": {"shortest_edge": 32}, "do_normalize": False}}
    (clip_copy / "processor_config.json").write_text(json.dumps(nested))
    transform = load_backbone(f"hf:{clip_copy}", "cpu").preprocess()
    assert (transform.mode, transform.mean, transform.std) == ("shortest", (0, 0, 0), (1, 1, 1))


def test_rescaling_with_an_offset_becomes_mean_and_std(clip_copy):
    stated = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}
    (clip_copy / "preprocessor_config.json").write_text(json.dumps(stated))
    transform = load_backbone(f"hf:{clip_copy}", "cpu").preprocess()
    assert transform.mean == pytest.approx((0.5,) * 3) and transform.std == pytest.approx((0.5,) * 3)


def test_the_fingerprint_follows_weights_and_tokenizer_not_the_librarys_version(clip_copy):
    def now():
        return load_backbone(f"hf:{clip_copy}", "cpu").fingerprint

    first = now()
    config = json.loads((clip_copy / "config.json").read_text())
    (clip_copy / "config.json").write_text(json.dumps({**config, "transformers_version": "4.0.0"}))
    assert now() == first
    state = load_file(clip_copy / "model.safetensors")
    save_file({**state, "logit_scale": state["logit_scale"] + 1}, clip_copy / "model.safetensors", {"format": "pt"})
    second = now()
    tokenizer = clip_copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"dog"', '"fox"'))
    assert len({first, second, now()}) == 3


def test_weights_in_a_torch_file_of_tensors_are_read(clip_copy, hf_folder):
    torch.save(load_file(clip_copy / "model.safetensors"), clip_copy / "pytorch_model.bin")
    (clip_copy / "model.safetensors").unlink()
    pixels = torch.randn(1, 3, 32, 32)
    expected = load_backbone(f"hf:{hf_folder('clip')}", "cpu").encode_image(pixels)
    torch.testing.assert_close(load_backbone(f"hf:{clip_copy}", "cpu").encode_image(pixels), expected)


def test_a_legacy_end_of_text_is_the_highest_token(clip_copy):
    config = json.loads((clip_copy / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (clip_copy / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(f"hf:{clip_copy}", "cpu")
    tokens = torch.tensor([[2, 5, 39, 3] + [0] * 12])
    assert backbone.token_mask(tokens)[0].sum() == 3
    with torch.no_grad():
        native = backbone.encode_tokens(tokens)
        torch.testing.assert_close(backbone.encode_text(tokens, False), native, atol=1e-5, rtol=1e-5)


def test_padding_with_end_of_text_ends_at_the_first(hf_folder):
    backbone = load_backbone(f"hf:{hf_folder('clip')}", "cpu")
    tokens = torch.tensor([[2, 5, 6, 3, 3, 3] + [3] * 10])
    assert backbone.token_mask(tokens)[0].tolist() == [True] * 4 + [False] * 12


def test_a_folder_without_tokenizer_still_encodes_images(clip_copy):
    for file in clip_copy.glob("tokenizer*"):
        file.unlink()
    backbone = load_backbone(f"hf:{clip_copy}", "cpu")
    assert backbone.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 24)
    with pytest.raises(DataError, match="has no tokenizer, so it can encode images but not texts"):
        backbone.encode_text(["dog"])


@pytest.mark.parametrize("part", [None, "vision_config"])
def test_a_configuration_that_names_kernels_of_a_repository_is_refused(clip_copy, part):
    file = clip_copy / "config.json"
    stated = json.loads(file.read_text())
    (stated if part is None else stated[part])["attn_implementation"] = "somebody/kernels"
    file.write_text(json.dumps(stated))
    with pytest.raises(DataError, match=r"config.json: attn_implementation .*somebody/kernels"):
        load_backbone(f"hf:{clip_copy}", "cpu")


def test_the_licence_is_the_model_cards(clip_copy):
    assert load_backbone(f"hf:{clip_copy}", "cpu").licence == "unknown"
    (clip_copy / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n")
    assert load_backbone(f"hf:{clip_copy}", "cpu").licence == "apache-2.0"


def test_only_what_is_said_is_printed(hf_folder, capfd):
    backbone = load_backbone(f"hf:{hf_folder('siglip')}", "cpu")
    backbone.encode_text(["dog"])
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text("{")


def another_type(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')


def own_code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoModel": "m.M"}}))


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def truncated_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def other_weights(folder):
    save_file({"something.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})


def reshaped_weights(folder):
    state = load_file(folder / "model.safetensors")
    state["text_projection.weight"] = torch.zeros(3, 3)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def pickled_weights(folder):
    no_weights(folder)
    torch.save({"a": print}, folder / "pytorch_model.bin")


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_config, "has no config.json; give a folder"),
        (broken_config, "config.json: not valid JSON"),
        (another_type, "model of type 'bert'; backbones of hf are clip"),
        (own_code, "model of type 'mine'"),
        (no_weights, "has no weights; give a folder with model.safetensors"),
        (truncated_weights, "weights cannot be read .*copy or download"),
        (other_weights, r"not match config.json, \d+ are missing \(.*, \.\.\.\)"),
        (reshaped_weights, "weights cannot be read|not match config.json"),
        (pickled_weights, "weights cannot be read"),
        (broken_tokenizer, "tokenizer cannot be read"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(clip_copy, damage, said):
    damage(clip_copy)
    with pytest.raises(DataError, match=said) as caught:
        backbone = load_backbone(f"hf:{clip_copy}", "cpu")
        backbone.model  # noqa: B018
        backbone.tokenize(["dog"])
    assert str(clip_copy) in str(caught.value)


def test_distillation_of_words_refuses_a_teacher_with_another_tokenizer_before_a_step(small_clip, hf_folder):
    teacher = load_backbone(f"hf:{hf_folder('siglip')}", "cpu")
    asking, needs = "loss distilbert", build_loss("distilbert", ce=0, mlm=0).needs
    need_same_words([deepcopy(small_clip)], small_clip, needs, asking)
    need_same_words([teacher], small_clip, frozenset({"teacher.text"}), asking)
    with pytest.raises(CapabilityError, match="reads other words than"):
        need_same_words([teacher], small_clip, needs, asking)
