"""A smaller tower starts from blocks, heads and channels of a larger one."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vladapt import CapabilityError
from vladapt.core.backbones.inheritance import inherit
from vladapt.core.backbones.load import load_backbone
from vladapt.core.testing.towers import drawn_clip

pytest.importorskip("open_clip", reason="extra open-clip is not installed")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """`clip(width, layers, seed, size=16)`: both towers so wide and deep, heads of 16."""

    def make(width, layers, seed, size=16):
        config = {
            "embed_dim": width // 2,
            "vision_cfg": {"image_size": size, "layers": layers, "width": width, "patch_size": 8, "head_width": 16},
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 8192,
                "width": width,
                "heads": width // 16,
                "layers": layers,
            },
        }
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("clip")
        (folder / "c.json").write_text(json.dumps(config))
        state = {name: torch.randn_like(weight) for name, weight in drawn_clip(config).state_dict().items()}
        save_file(state, folder / "c.safetensors")
        return load_backbone(f"open_clip:{folder / 'c.json'}@{folder / 'c.safetensors'}", device="cpu")

    return make


def test_every_second_block_the_first_heads_and_the_first_channels_are_inherited(clip):
    student, teacher = clip(32, 2, 0), clip(64, 5, 1)
    note = inherit(student, teacher)
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    for tower in ("transformer", "visual.transformer"):
        for number, of_teacher in ((0, 0), (1, 2)):  # 5 // 2 = 2
            mine, source = (f"{tower}.resblocks.{place}." for place in (number, of_teacher))
            stacked = theirs[source + "attn.in_proj_weight"].view(3, 64, 64)[:, :32, :32].reshape(96, 32)
            assert torch.equal(ours[mine + "attn.in_proj_weight"], stacked)
            bias = theirs[source + "attn.in_proj_bias"].view(3, 64)[:, :32].reshape(96)
            assert torch.equal(ours[mine + "attn.in_proj_bias"], bias)
            assert torch.equal(ours[mine + "mlp.c_fc.weight"], theirs[source + "mlp.c_fc.weight"][:128, :32])
            assert torch.equal(ours[mine + "ln_1.weight"], theirs[source + "ln_1.weight"][:32])
    assert torch.equal(ours["token_embedding.weight"], theirs["token_embedding.weight"][:, :32])
    assert torch.equal(ours["visual.conv1.weight"], theirs["visual.conv1.weight"][:32])
    assert torch.equal(ours["text_projection"], theirs["text_projection"][:32, :16])
    assert note.startswith("100.0% of the weights start as the teacher's")


def test_positions_of_another_image_size_stay(clip):
    student, teacher = clip(32, 1, 0, size=24), clip(32, 2, 1)
    before = student.model.visual.positional_embedding.clone()
    note = inherit(student, teacher)
    assert torch.equal(student.model.visual.positional_embedding, before) and not note.startswith("100.0%")
    assert torch.equal(student.model.positional_embedding, teacher.model.positional_embedding)


def test_a_copy_of_the_teacher_gives_its_features(clip):
    student, teacher = clip(32, 2, 0), clip(32, 2, 1)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(student.encode_image(pixels), teacher.encode_image(pixels))
    inherit(student, teacher)
    assert torch.equal(student.encode_image(pixels), teacher.encode_image(pixels))
    assert torch.equal(student.encode_text(["a dog"]), teacher.encode_text(["a dog"]))


def test_a_shallower_teacher_and_another_family_are_refused(clip):
    with pytest.raises(CapabilityError, match=r"has 3 blocks, and that of its teacher .* 2; give a deeper"):
        inherit(clip(32, 3, 0), clip(64, 2, 1))
    with pytest.raises(CapabilityError):
        inherit(clip(32, 1, 0), load_backbone("embedded", device="cpu"))
