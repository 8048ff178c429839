import copy
import math
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.split_attention import merge_attention
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.training.lora import LowRank

pytest.importorskip("peft", reason="extra fine-tune is not installed")

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TEXTS = ["a photo of a cat", "the small green sea lake . dog", "dog"]
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
FAMILIES = ("open_clip", "open_clip-timm", "clip", "siglip", "chinese_clip", "embedded")


@pytest.fixture(scope="module")
def built(tmp_path_factory, hf_folder, small):
    """name -> backbone, made once; for reading only."""
    made = {}

    def named(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("lora")
            if name == "open_clip-timm":
                made[name] = small.write_open_clip(folder, small.open_clip_config(TIMM, custom_text=True), seed=2)
            elif name == "open_clip-deep":
                config = small.open_clip_config({"layers": 12, "width": 16}, {"layers": 6, "width": 16})
                made[name] = small.write_open_clip(folder, config)
            elif name == "open_clip":
                made[name] = small.write_open_clip(folder, small.open_clip_config(), seed=2)
            else:
                made[name] = "embedded" if name == "embedded" else f"hf:{hf_folder(name)}"
            made[name] = load_backbone(made[name], "cpu")
        return made[name]

    return named


@pytest.fixture
def backbone(built):
    """name -> a backbone to change."""
    return lambda name: copy.deepcopy(built(name))


def adapted(backbone, seed=0, **options):
    """LoRA with matrices of which none is zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = list(LowRank.add(backbone, **options).matrices.values())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for matrix in trained:
            matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.3)
    return trained


def pixels_of(backbone, count=2):
    side = backbone.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def features(backbone):
    return backbone.encode_image(pixels_of(backbone)), backbone.encode_text(TEXTS)


def loss_of(backbone):
    image, text = features(backbone)
    return F.cross_entropy(10 * image @ text.T, torch.arange(2))


# Placement -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_changes_at_first_and_only_the_matrices_train(backbone, name):
    tower = backbone(name)
    before = features(tower)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = list(LowRank.add(tower).matrices.values())
    for value, old in zip(features(tower), before):
        torch.testing.assert_close(value, old, **CLOSE)
    wanted = [p for p in tower.model.parameters() if p.requires_grad]
    assert {id(p) for p in wanted} == {id(p) for p in trained}
    towers = ("text",) if name == "embedded" else ("image", "text")
    assert len(trained) == 6 * sum(len(tower.blocks(kind)) for kind in towers)
    for down, up in zip(trained[::2], trained[1::2]):
        assert down.shape[0] == up.shape[1] == 2 and up.abs().sum() == 0
        bound = 1 / math.sqrt(down.shape[1])  # kaiming_uniform with a = sqrt(5)
        assert bound * 0.8 < down.abs().max() <= bound


@pytest.mark.parametrize("name", FAMILIES)
def test_every_matrix_learns_and_the_loss_falls(backbone, name):
    tower = backbone(name)
    trained = adapted(tower)
    tower.model.train()
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    losses = []
    for step in range(6):
        torch.manual_seed(0)
        loss = loss_of(tower)
        loss.backward()
        if step == 0:
            assert all(matrix.grad is not None and matrix.grad.abs().sum() > 0 for matrix in trained)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


PLACES = {
    "all": (range(12), range(6)),
    "half-bottom": (range(6), range(3)),
    "half-up": (range(6, 12), range(3, 6)),
    "bottom": (range(4), range(2)),
    "mid": (range(4, 8), range(2, 4)),
    "up": (range(8, 12), range(4, 6)),
    "top1": (range(11, 12), range(5, 6)),
    "top2": (range(10, 12), range(4, 6)),
    "top3": (range(9, 12), range(3, 6)),
}


@pytest.mark.parametrize("positions", PLACES)
def test_positions_are_the_papers_for_twelve_blocks_and_shares_for_others(backbone, positions):
    tower = backbone("open_clip-deep")
    LowRank.add(tower, positions=positions)
    found = {name.rpartition(".attn.")[0] for name in LowRank(tower).state()}
    image, text = PLACES[positions]
    assert found == {f"visual.transformer.resblocks.{i}" for i in image} | {f"transformer.resblocks.{i}" for i in text}


@pytest.mark.parametrize("kind", ["text", "image"])
def test_one_tower_alone_is_adapted(backbone, kind):
    tower = backbone("open_clip")
    before = features(tower)
    adapted(tower, towers=(kind,))
    same, other = (0, 1) if kind == "text" else (1, 0)
    after = features(tower)
    assert torch.equal(after[same], before[same])
    assert (after[other] - before[other]).abs().max() > 1e-2
    assert {name.startswith("visual.") for name in LowRank(tower).state()} == {kind == "image"}


@pytest.mark.parametrize(("name", "out"), [("open_clip", "out_proj"), ("chinese_clip", "dense"), ("embedded", "out")])
def test_any_of_the_four_projections_is_adapted(backbone, name, out):
    tower = backbone(name)
    adapted(tower, params=("out",), towers=("text",))
    assert {key.split(".")[-2] for key in LowRank(tower).state()} == {out}
    assert (features(tower)[1] - features(backbone(name))[1]).abs().max() > 1e-3


def test_a_tower_without_attention_is_told_of(backbone):
    with pytest.warns(UserWarning, match="its image tower has no attention"):
        LowRank.add(backbone("embedded"))
    with pytest.raises(CapabilityError, match="no attention that can be split in its image tower"):
        LowRank.add(backbone("embedded"), towers=("image",))


# Options -------------------------------------------------------------------------------------------------------------


def test_rank_is_the_width_between_the_matrices(backbone):
    tower = backbone("open_clip")
    LowRank.add(tower, r=5)
    assert {min(matrix.shape) for matrix in LowRank(tower).state().values()} == {5}


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, 1 / math.sqrt(2)),
        ({"alpha": 3.0}, 3 / math.sqrt(2)),
        ({"r": 4}, 1 / 2),
        ({"r": 4, "use_rslora": False}, 1 / 4),
    ],
)
def test_the_scale_is_alpha_over_the_root_of_r(backbone, options, scale):
    tower, base = backbone("clip"), backbone("clip")
    adapted(tower, **options)
    name = "vision_model.encoder.layers.1.self_attn.v_proj"
    state = LowRank(tower).state()
    expected = base.model.get_submodule(name).weight + scale * state[f"{name}.lora_B"] @ state[f"{name}.lora_A"]
    LowRank(tower).merge()
    torch.testing.assert_close(tower.model.get_submodule(name).weight, expected, **CLOSE)


@pytest.mark.parametrize("name", ["open_clip", "open_clip-timm", "clip"])
def test_dropout_stands_before_a_in_train_mode_only(backbone, name):
    tower = backbone(name)
    adapted(tower, dropout=0.5)
    assert torch.equal(features(tower)[0], features(tower)[0])
    whole = features(tower)[0]
    tower.model.train()
    assert (features(tower)[0] - features(tower)[0]).abs().max() > 1e-4
    tower.model.eval()
    assert torch.equal(features(tower)[0], whole)
    without = backbone(name)
    adapted(without, dropout=0.0)
    torch.testing.assert_close(features(without)[0], whole, **CLOSE)
    without.model.train()
    torch.testing.assert_close(features(without)[0], whole, **CLOSE)


def test_matrices_added_in_train_mode_drop_at_once(backbone):
    tower = backbone("open_clip")
    tower.model.train()
    adapted(tower, dropout=0.5)
    assert (features(tower)[0] - features(tower)[0]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "bad",
    [
        {"r": 0},
        {"r": 1.5},
        {"alpha": 0},
        {"dropout": 1.0},
        {"params": ()},
        {"params": ("mlp",)},
        {"positions": "top"},
        {"towers": ("audio",)},
    ],
)
def test_an_option_that_means_nothing_is_refused(backbone, bad):
    tower = backbone("open_clip")
    kinds = [type(module) for module in tower.model.modules()]
    with pytest.raises(ConfigError, match=f"option {next(iter(bad))}="):
        LowRank.add(tower, **bad)
    assert [type(module) for module in tower.model.modules()] == kinds


def test_a_position_that_two_blocks_do_not_have_is_refused(backbone):
    tower = backbone("open_clip")
    names = list(tower.model.state_dict())
    with pytest.raises(ConfigError, match=r"positions='mid'.* too few blocks"):
        LowRank.add(tower, positions="mid")
    assert list(tower.model.state_dict()) == names


# Saved, loaded, merged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_learned_is_saved_and_loaded(backbone, name):
    tower, other = backbone(name), backbone(name)
    adapted(tower, seed=1)
    adapted(other, seed=2)
    state = LowRank(tower).state()
    assert all(key.endswith((".lora_A", ".lora_B")) and "default" not in key for key in state)
    assert features(other)[1].sub(features(tower)[1]).abs().max() > 1e-3
    LowRank(other).load({key: value.clone() for key, value in state.items()})
    for mine, theirs in zip(features(other), features(tower)):
        assert torch.equal(mine, theirs)
    next(iter(state.values())).zero_()  # a copy, not the weights
    assert all(matrix.abs().sum() > 0 for matrix in LowRank(tower).state().values())


def test_weights_of_other_options_are_refused_in_one_line(backbone):
    tower, other = backbone("open_clip"), backbone("open_clip")
    adapted(tower)
    adapted(other, r=3)
    before = LowRank(tower).state()
    with pytest.raises(DataError, match=r"is \(3, 32\), .* takes \(2, 32\); give LowRank.add the r"):
        LowRank(tower).load(LowRank(other).state())
    with pytest.raises(DataError, match=r"13 differ \(a.lora_A\); give LowRank.add the params, towers and positions"):
        LowRank(tower).load({key: value for key, value in before.items() if "visual" not in key} | {"a.lora_A": 1})
    assert all(torch.equal(value, before[key]) for key, value in LowRank(tower).state().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_weights_give_the_same_features_in_the_base_models_own_shape(backbone, name):
    tower, base = backbone(name), backbone(name)
    adapted(tower)
    expected = features(tower)
    LowRank(tower).merge()
    for value, wanted in zip(features(tower), expected):
        torch.testing.assert_close(value, wanted, **CLOSE)
    shapes = {key: value.shape for key, value in base.model.state_dict().items()}
    assert {key: value.shape for key, value in tower.model.state_dict().items()} == shapes
    assert [type(m) for m in tower.model.modules()] == [type(m) for m in base.model.modules()]
    assert vars(tower.model).keys() == vars(base.model).keys()
    base.model.load_state_dict(tower.model.state_dict())
    for value, wanted in zip(features(base), expected):
        torch.testing.assert_close(value, wanted, **CLOSE)


def test_after_merging_another_adaptation_can_begin(backbone):
    tower = backbone("open_clip")
    adapted(tower)
    with pytest.raises(CapabilityError, match=r"carries LoRA already; call LowRank\(backbone\).merge\(\) first"):
        LowRank.add(tower)
    LowRank(tower).merge()
    adapted(tower, r=3)
    assert LowRank(tower).state()


def test_a_backbone_without_lora_says_so(backbone):
    with pytest.raises(CapabilityError, match=r"carries no LoRA; call LowRank.add\(\) first"):
        LowRank(backbone("open_clip"))


@pytest.mark.parametrize("name", ["open_clip", "clip"])
def test_attention_with_lora_on_it_is_not_merged(backbone, name):
    tower = backbone(name)
    adapted(tower)
    with pytest.raises(CapabilityError, match=r"carries an adapter; merge it .*\(LowRank.merge\)"):
        merge_attention(tower)


def test_a_copy_has_matrices_of_its_own(backbone):
    tower = backbone("open_clip")
    adapted(tower)
    twin = copy.deepcopy(tower)
    expected = features(tower)
    with torch.no_grad():
        for parameter in twin.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(3)
    assert torch.equal(features(tower)[0], expected[0])
    assert (features(twin)[0] - expected[0]).abs().max() > 1e-3


# How it is run -------------------------------------------------------------------------------------------------------


@pytest.mark.thorough(but=("clip", "open_clip"))
@pytest.mark.parametrize("name", ["open_clip", "embedded", "clip", "chinese_clip"])
def test_it_trains_under_autocast(backbone, name):
    tower = backbone(name)
    trained = adapted(tower, dropout=0.0)
    tower.model.train()
    loss_of(tower).backward()
    exact = torch.cat([matrix.grad.flatten() for matrix in trained])
    tower.model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(tower)
    loss.backward()
    half = torch.cat([matrix.grad.flatten() for matrix in trained])
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    assert F.cosine_similarity(half, exact, dim=0) > 0.95


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["open_clip", "clip"])
def test_checkpointing_gives_the_same_gradients_with_dropout(backbone, name, reentrant):
    tower = backbone(name)
    trained = adapted(tower, dropout=0.3)
    tower.model.train()
    pixels = pixels_of(tower).requires_grad_()
    found = []
    for run in (lambda encode, x: encode(x), lambda encode, x: checkpoint(encode, x, use_reentrant=reentrant)):
        torch.manual_seed(7)
        run(tower.encode_image, pixels)[:, 0].sum().backward()
        found.append([matrix.grad.clone() for matrix in trained if matrix.grad is not None])
        tower.model.zero_grad()
    assert len(found[0]) == len(found[1]) > 0
    for mine, theirs in zip(*found):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_the_librarys_own_checkpointing_works(backbone):
    tower = backbone("open_clip")
    trained = adapted(tower, dropout=0.3)
    tower.model.train()
    grads = []
    for enable in (False, True):
        tower.model.set_grad_checkpointing(enable)
        torch.manual_seed(7)
        tower.encode_image(pixels_of(tower))[:, 0].sum().backward()
        grads.append([matrix.grad.clone() for matrix in trained if matrix.grad is not None])
        tower.model.zero_grad()
    for mine, theirs in zip(*grads):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_without_peft_one_line_says_what_to_install(backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    tower = backbone("open_clip")
    names = list(tower.model.state_dict())
    with pytest.raises(CapabilityError, match=r"LoRA needs the package 'peft'; .* 'vladapt\[fine-tune\]'"):
        LowRank.add(tower)
    assert list(tower.model.state_dict()) == names
