"""What is said, in one line, about a spec, a checkpoint or a remote model that cannot be used."""

import json
import os
import pickle
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """An empty hub cache, and a hub that refuses the connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


def cached(hub, repo, files):
    """Put files into a hub cache the way the hub's client lays them out."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("open-clip:ViT-B-32/openai", "did you mean open_clip"),
        ("embeded", "did you mean embedded"),
        ("ViT-B-32", "unknown backbone 'ViT-B-32'; did you mean .*openai-vit-b-32"),
        ("osnet_x1_0", "a library's own name takes its family, as timm:resnet50 or open_clip:ViT-B-32/openai"),
        (
            "resnet50",
            "unknown backbone 'resnet50'; there are: embedded, hf, join, module, open_clip, projected, stored, tiles",
        ),
        ("open_clip:ViT-B-33/openai", "unknown open_clip architecture 'ViT-B-33'; did you mean ViT-B-32"),
        ("open_clip:zzzzzzzzzz/openai", r"open_clip.list_models\(\)"),
        ("open_clip:ViT-B-32/opena", "no weights 'opena' for ViT-B-32; did you mean openai"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(spec, said):
    with pytest.raises(UnknownNameError, match=said):
        load_backbone(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("open_clip:ViT-B-32", r"has no weights; give open_clip:ViT-B-32/<tag> \(openai, .*\.\.\.\)"),
        ("open_clip:@file.pt", "does not have the form open_clip:<arch>/<tag>"),
        ("open_clip:ViT-B-32@", "does not have the form"),
        ("hf:", "names no model; give hf:<repo id or folder>"),
    ],
)
def test_a_spec_of_another_form_says_the_form(spec, said):
    with pytest.raises(ConfigError, match=said):
        load_backbone(spec)


def test_a_wrong_device_or_size_is_named(open_clip_vit):
    with pytest.raises(ConfigError, match="--device tpuu: no such device"):
        load_backbone(open_clip_vit, device="tpuu")
    with pytest.raises(ConfigError, match="image_size=-3 is not usable"):
        load_backbone(open_clip_vit, image_size=-3)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no GPU"):
            load_backbone(open_clip_vit, device="cuda")
    assert load_backbone(open_clip_vit).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "vladapt.core.backbones.hf", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CapabilityError, match=r"the package 'transformers'; .* pip install 'vladapt\[hf\]'"):
        load_backbone("hf:somewhere")


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)

    def __init__(self, path):
        self.path = str(path)


def with_checkpoint(spec, path):
    return f"{spec.rpartition('@')[0]}@{path}"


@pytest.mark.parametrize("wrap", ["torch", "pickle"])
def test_a_pickle_is_refused_and_never_run(open_clip_vit, tmp_path, wrap):
    path, trace = tmp_path / "bomb.pt", tmp_path / "ran"
    if wrap == "torch":
        torch.save({"state_dict": Bomb(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(DataError, match=r"bomb.pt: refused, it holds more than tensors"):
        load_backbone(with_checkpoint(open_clip_vit, path), "cpu").model  # noqa: B018
    assert not trace.exists()


def test_a_torchscript_archive_is_refused(open_clip_vit, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "jit.pt"))
    with pytest.raises(DataError, match=r"jit.pt: refused"):
        load_backbone(with_checkpoint(open_clip_vit, tmp_path / "jit.pt"), "cpu").model  # noqa: B018


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 40, 0.5])
def test_a_truncated_checkpoint_is_named(open_clip_vit, small, tmp_path, suffix, keep):
    spec = small.write_open_clip(tmp_path, small.open_clip_config(), suffix=suffix)
    whole = (tmp_path / f"tiny{suffix}").read_bytes()
    cut = int(len(whole) * keep) if isinstance(keep, float) else keep
    (tmp_path / f"tiny{suffix}").write_bytes(whole[:cut])
    with pytest.raises(DataError, match=rf"tiny{suffix}: (truncated or damaged .*download it again|refused)"):
        load_backbone(spec, "cpu").model  # noqa: B018


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)]])
def test_a_file_without_weights_is_named(open_clip_vit, tmp_path, content):
    torch.save(content, tmp_path / "none.pt")
    with pytest.raises(DataError, match=r"none.pt: holds no weights"):
        load_backbone(with_checkpoint(open_clip_vit, tmp_path / "none.pt"), "cpu").model  # noqa: B018


@pytest.mark.parametrize("path", ["nowhere.safetensors", "."])
def test_a_missing_checkpoint_is_named_at_once(open_clip_vit, tmp_path, path):
    with pytest.raises(DataError, match=r"(no such file|is a folder); give the checkpoint file"):
        load_backbone(with_checkpoint(open_clip_vit, tmp_path / path), "cpu")


def test_another_architecture_names_what_differs(open_clip_vit, small, tmp_path):
    state = load_file(open_clip_vit.rpartition("@")[2])
    del state["visual.proj"]
    state["extra.weight"] = torch.zeros(1)
    state["ln_final.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(DataError) as caught:
        load_backbone(with_checkpoint(open_clip_vit, tmp_path / "w.safetensors"), "cpu").model  # noqa: B018
    said = str(caught.value)
    assert "1 missing (visual.proj)" in said and "1 unexpected (extra.weight)" in said
    assert "1 of another shape (ln_final.bias: (5,) for (32,))" in said and "\n" not in said
    deeper = small.open_clip_config({"layers": 3})
    (tmp_path / "deep.json").write_text(json.dumps(deeper))
    with pytest.raises(DataError, match=r"deep.json: 12 missing \(visual.transformer.resblocks.2.*, \.\.\.\)"):
        load_backbone(f"open_clip:{tmp_path / 'deep.json'}@{open_clip_vit.rpartition('@')[2]}", "cpu").model  # noqa: B018


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; give the configuration file"),
        ("{", "not valid JSON"),
        ("[]", "not an open_clip configuration; give one with embed_dim"),
        ('{"embed_dim": 8}', "not an open_clip configuration"),
        ('{"embed_dim": 8, "vision_cfg": {"layerz": 2}, "text_cfg": {}}', "cannot build this configuration .*layerz"),
        ('{"embed_dim": 8, "vision_cfg": {"image_size": [32]}, "text_cfg": {}}', r"image_size of vision_cfg is \[32\]"),
        ('{"embed_dim": 8, "vision_cfg": {"image_size": "x"}, "text_cfg": {}}', "give a side, or"),
        ('{"embed_dim": 8, "vision_cfg": {"image_size": [32, 0]}, "text_cfg": {}}', "image_size of vision_cfg"),
    ],
)
def test_a_wrong_configuration_is_named(open_clip_vit, tmp_path, content, said):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises((DataError, ConfigError), match=said) as caught:
        load_backbone(f"open_clip:{path}@{open_clip_vit.rpartition('@')[2]}", "cpu").model  # noqa: B018
    assert "c.json" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "local_way"),
    [
        ("open_clip:ViT-B-16/laion400m_e32", "open_clip:ViT-B-16@<checkpoint>"),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32-quickgelu@<checkpoint>"),
        ("hf:openai/clip-vit-base-patch32", "hf:<folder>"),
    ],
)
@pytest.mark.parametrize("offline", [False, True])
def test_a_remote_model_without_network_names_the_local_way_at_once(unreachable, monkeypatch, spec, local_way, offline):
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    with pytest.raises(DataError, match="HF_HUB_OFFLINE forbids" if offline else "does not answer") as caught:
        load_backbone(spec, "cpu")
    assert local_way in str(caught.value)
    assert time.monotonic() - started < 10  # the hub's own client retries for half a minute


@pytest.mark.parametrize("path", ["./nowhere", "/no/where", "a/b/c", "nowhere"])
def test_a_missing_folder_is_never_looked_for_on_the_hub(path):
    with pytest.raises(DataError, match=r"no such folder.*hf:<folder>"):
        load_backbone(f"hf:{path}")


def test_a_cached_tag_needs_no_network(unreachable):
    snapshot = cached(unreachable, "timm/vit_base_patch32_clip_224.openai", {"open_clip_model.safetensors": b"x"})
    backbone = load_backbone("open_clip:ViT-B/32/openai", "cpu")
    assert backbone.source.weights == snapshot / "open_clip_model.safetensors"
    assert backbone.licence == "MIT"
    assert backbone.source.config["quick_gelu"] is True  # as these weights were trained
    assert (backbone.embed_dim, backbone.image_size, backbone.context_length) == (512, 224, 77)
    assert backbone._model is None


def test_a_cached_hub_model_needs_no_network(unreachable, hf_folder):
    files = {file.name: file.read_bytes() for file in hf_folder("clip").iterdir()}
    cached(unreachable, "someone/tiny", files)
    backbone = load_backbone("hf:someone/tiny", "cpu")
    assert backbone.encode_text(["dog"]).shape == (1, 24)
    assert backbone.fingerprint == load_backbone(f"hf:{hf_folder('clip')}", "cpu").fingerprint
