"""OpenAI's weights as a bare file: QuickGELU by what the file is, and an archive that is read without running it."""

import copy
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vladapt.core.backbones import openai_weights
from vladapt.core.backbones.checkpoints import file_digests, read_checkpoint
from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.openai_weights import FACTS, needs_quick_gelu
from vladapt.core.errors import DataError

VALUES = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}


@pytest.fixture
def plain(small, tmp_path):
    """A configuration that does not say which activation it has, and weights."""
    return small.write_open_clip(tmp_path / "plain", small.open_clip_config(quick_gelu=None), seed=3)


def parts(spec: str) -> tuple[Path, Path]:
    config, _, weights = spec.removeprefix("open_clip:").partition("@")
    return Path(config), Path(weights)


class Whole(torch.nn.Module):
    """Modules and tensors under the names of a state dict, as OpenAI's archive has them."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        for name, value in state.items():
            *path, leaf = name.split(".")
            module = self
            for step in path:
                if step not in module._modules:
                    module.add_module(step, torch.nn.Module())
                module = module._modules[step]
            module.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=value.is_floating_point()))
        for name, value in VALUES.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def archive_of(spec: str, path: Path, half: bool = False, facts: bool = True) -> Path:
    state = load_file(parts(spec)[1])
    module = Whole({name: value.half() if half else value for name, value in state.items()})
    if not facts:
        for name in VALUES:
            del module._buffers[name]
    torch.jit.script(module).save(str(path))
    return path


def image_features(spec: str) -> torch.Tensor:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return load_backbone(spec, "cpu").encode_image(pixels, normalize=False)


def with_gelu(spec: str, quick: bool) -> torch.Tensor:
    config, weights = parts(spec)
    said = config.with_name(f"said-{quick}.json")
    said.write_text(json.dumps({**json.loads(config.read_text()), "quick_gelu": quick}))
    return image_features(f"open_clip:{said}@{weights}")


@pytest.mark.parametrize("form", ["archive", "half archive", "state dict", "safetensors"])
def test_a_file_of_openais_gets_quick_gelu(plain, tmp_path, form):
    config, weights = parts(plain)
    facts = {name: torch.tensor(value) for name, value in VALUES.items()}
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form.endswith("archive"):
        archive_of(plain, file, half=form == "half archive")
    elif form == "state dict":
        torch.save({**load_file(weights), **facts}, file)
    else:
        save_file({**load_file(weights), **facts}, file)
    backbone = load_backbone(f"open_clip:{config}@{file}", "cpu")
    assert backbone.source.config["quick_gelu"] is True
    features = image_features(backbone.spec)
    near, far = ((features - with_gelu(plain, quick)).abs().max() for quick in (True, False))
    assert near < (5e-3 if form == "half archive" else 1e-5)  # halves are rounded
    assert far > 1e-2
    assert backbone.fingerprint != load_backbone(plain, "cpu").fingerprint


def test_an_archive_of_openais_gives_its_weights_bit_by_bit(plain, tmp_path):
    state = load_file(parts(plain)[1])
    read = read_checkpoint(archive_of(plain, tmp_path / "w.pt"))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_the_type_of_the_numbers_says_nothing(plain, tmp_path):
    config, weights = parts(plain)
    torch.save({name: value.half() for name, value in load_file(weights).items()}, tmp_path / "half.pt")
    backbone = load_backbone(f"open_clip:{config}@{tmp_path / 'half.pt'}", "cpu")
    assert "quick_gelu" not in backbone.source.config


def test_a_configuration_that_says_its_activation_is_obeyed(plain, tmp_path):
    config, _ = parts(plain)
    config.write_text(json.dumps({**json.loads(config.read_text()), "quick_gelu": False}))
    backbone = load_backbone(f"open_clip:{config}@{archive_of(plain, tmp_path / 'w.pt')}", "cpu")
    assert backbone.source.config["quick_gelu"] is False


def test_released_files_are_known_by_their_sha256(tmp_path):
    file = tmp_path / "w.pt"
    file.write_bytes(b"no weights")
    of_openais_vit_b_32 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    of_laions_quick_vit_b_32 = "46683a32" + "0" * 56
    of_laions_vit_b_16 = "55e67d44" + "0" * 56
    assert needs_quick_gelu(file, of_openais_vit_b_32) and needs_quick_gelu(file, of_laions_quick_vit_b_32)
    assert not needs_quick_gelu(file, of_laions_vit_b_16)
    assert not needs_quick_gelu(file, file_digests([file])[0])


def test_weights_of_unknown_origin_name_the_other_spelling(plain):
    _, weights = parts(plain)
    (note,) = load_backbone(f"open_clip:ViT-B-32@{weights}", "cpu").notes
    assert note.endswith(f"give open_clip:ViT-B-32-quickgelu@{weights}") and "\n" not in note
    assert load_backbone(f"open_clip:ViT-B-32-quickgelu@{weights}", "cpu").notes == []
    assert load_backbone(f"open_clip:ViT-B-16-SigLIP@{weights}", "cpu").notes == []
    assert load_backbone("open_clip:ViT-B-32@random", "cpu").notes == []


def test_an_archive_without_the_facts_is_refused(plain, tmp_path):
    file = archive_of(plain, tmp_path / "w.pt", facts=False)
    with pytest.raises(DataError, match=r"w\.pt: refused, a TorchScript archive .* not one of OpenAI's"):
        read_checkpoint(file)


def rewritten(source: Path, target: Path, change) -> Path:
    """The archive with the pickle of its module changed, or with its numbers compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            change(new, name, old.read(name))
    return target


def test_code_in_the_pickle_of_an_archive_is_never_run(plain, tmp_path):
    mark = tmp_path / "sprung"
    evil = b"\x80\x02cos\nmkdir\n(X" + len(str(mark)).to_bytes(4, "little") + str(mark).encode() + b"tR."

    def change(archive, name, content):
        archive.writestr(name, evil if name.endswith("/data.pkl") else content)

    file = rewritten(archive_of(plain, tmp_path / "w.pt"), tmp_path / "evil.pt", change)
    with pytest.raises(DataError, match=r"evil\.pt: refused"):
        read_checkpoint(file)
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["pickle", "compressed", "storage", "opcode"])
def test_a_damaged_archive_is_one_line(plain, tmp_path, damage):
    def change(archive, name, content):
        if damage == "pickle" and name.endswith("/data.pkl"):
            content = content[: len(content) // 2]
        if damage == "opcode" and name.endswith("/data.pkl"):
            content = content[:2] + b"i" + content[3:]
        if damage == "storage" and name.endswith("/data/0"):
            content = content[:2]
        packed = zipfile.ZIP_DEFLATED if damage == "compressed" else zipfile.ZIP_STORED
        archive.writestr(name, content, packed)

    file = rewritten(archive_of(plain, tmp_path / "w.pt"), tmp_path / "bad.pt", change)
    with pytest.raises(DataError, match=r"bad\.pt: a TorchScript archive that is truncated or damaged"):
        read_checkpoint(file)


def test_a_module_that_holds_itself_ends(tmp_path):
    inner = openai_weights._Call(None, ())
    inner.state = {"again": inner}
    assert list(openai_weights._tensors(inner)) == []


def test_the_facts_are_no_weights(plain, tmp_path):
    assert not set(FACTS) & set(read_checkpoint(archive_of(plain, tmp_path / "w.pt")))
    assert copy.copy(VALUES).keys() == set(FACTS)
