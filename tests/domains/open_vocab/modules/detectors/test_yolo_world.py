"""YOLO-World whole: it trains on names drawn for each image, takes others, and folds them into weights."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.text_embeddings import set_classes

SIDE = 64
NAMES = "cat, dog, lake, sea, tree"
COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
}
KINDS = [("bn", False), ("l2", True), ("bn", True), ("l2", False)]


def config(spec: str, norm: str = "bn", image_pooling: bool = False, classes: str = NAMES, **options) -> dict:
    head = {
        "type": "vladapt.YOLOWorldHead",
        "norm": norm,
        "num_classes": 80,  # of a base config
        "in_channels": 16,
        "feat_channels": 16,
        "stacked_convs": 1,
        "exp_on_reg": True,
        "anchor_generator": {"type": "mmdet.MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32]},
        "bbox_coder": {"type": "mmdet.DistancePointBBoxCoder"},
        "loss_cls": {"type": "vladapt.RegionTextContrastiveLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "mmdet.GIoULoss", "loss_weight": 2.0},
    }
    return {
        "type": "vladapt.YOLOWorld",
        "data_preprocessor": {
            "type": "mmdet.DetDataPreprocessor",
            "mean": [127.0] * 3,
            "std": [64.0] * 3,
            "pad_size_divisor": 32,
        },
        "texts": {"backbone": spec, "classes": classes},
        "backbone": {"type": "vladapt.CLIPVisionBackbone", "backbone": spec, "out_channels": 8, "num_outs": 5},
        "neck": {
            "type": "vladapt.RepVLPAN",
            "in_channels": [8] * 5,
            "start_level": 2,
            "out_channels": 16,
            "num_csp_blocks": 1,
            "image_pooling": image_pooling,
            "pooling": {"embed_channels": 16, "num_heads": 2},
        },
        "bbox_head": head,
        "train_cfg": {
            "assigner": {"type": "mmdet.DynamicSoftLabelAssigner", "topk": 5},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {
            "nms_pre": 200,
            "min_bbox_size": 0,
            "score_thr": 0.0,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 30,
        },
        **options,
    }


def build(settings: dict, seed: int = 0):
    torch.manual_seed(seed)
    return MODELS.build(ConfigDict(copy.deepcopy(settings)))


def batch(seed: int = 0, count: int = 2, labels=((0, 2), (1, 4))) -> dict:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 4, 30, 30], [32, 30, 60, 62]])
    return {"inputs": list(inputs), "data_samples": [sample(boxes, labels[place % 2]) for place in range(count)]}


def sample(boxes, labels) -> DetDataSample:
    made = DetDataSample(metainfo={"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE), "scale_factor": (1.0, 1.0)})
    made.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.long))
    return made


def losses(model, data: dict) -> dict[str, torch.Tensor]:
    found = model.train()(**model.data_preprocessor(data, training=True), mode="loss")
    return {name: sum(value) if isinstance(value, list) else value for name, value in found.items()}


@torch.no_grad()
def raw(model) -> list[torch.Tensor]:
    """Logits and boxes of every cell."""
    pixels = model.data_preprocessor(batch(), training=False)["inputs"]
    return [level for part in model._forward(pixels, None) for level in part]


@torch.no_grad()
def predict(model, data: dict | None = None) -> list[InstanceData]:
    found = model.eval()(**model.data_preprocessor(data or batch(), training=False), mode="predict")
    return [each.pred_instances for each in found]


@pytest.fixture(scope="module")
def trained(small_clip_spec):
    """kind -> a model whose norms have seen images and whose parameters are not those of the start, in evaluation."""
    made = {}

    def of(norm: str, image_pooling: bool):
        if (norm, image_pooling) not in made:
            model = build(config(small_clip_spec, norm, image_pooling))
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
            for step in range(2):
                optimizer.zero_grad()
                sum(losses(model, batch(step)).values()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
            made[norm, image_pooling] = model.eval()
        model = made[norm, image_pooling]
        set_classes(model, NAMES)
        return model.eval()

    return of


@pytest.mark.parametrize(("norm", "image_pooling"), KINDS)
def test_all_that_trains_gets_a_gradient(small_clip_spec, norm, image_pooling):
    model = build(config(small_clip_spec, norm, image_pooling))
    model.init_weights()
    found = losses(model, batch())
    assert all(value.isfinite() for value in found.values())
    sum(found.values()).backward()
    unused = ("backbone.pyramid.levels.0", "backbone.pyramid.levels.1")  # maps that the neck leaves out
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and p.grad is None and not name.startswith(unused)
    ]
    assert not without
    assert not any("token_embedding" in name for name in model.state_dict())


@pytest.mark.parametrize(("norm", "image_pooling"), KINDS)
@pytest.mark.parametrize("names", [NAMES, "lake", "a, b, c, d, e, f, g"])
def test_names_as_weights_give_the_same(trained, norm, image_pooling, names):
    model = trained(norm, image_pooling)
    set_classes(model, names)
    plain = raw(model)
    model.fold()
    parts = [*model.neck.top_down_blocks, *model.neck.bottom_up_blocks]
    assert [block.text_attention.folded_weight is not None for block in parts] == [True] * 2 + [not image_pooling] * 2
    folded = raw(model)
    assert plain[0].shape[1] == len(names.split(","))
    assert max((one - other).abs().max() for one, other in zip(plain, folded, strict=True)) < 1e-5


def test_folded_names_are_not_asked_again(trained):
    model = trained("bn", False)
    model.fold()
    model.texts.embeddings = torch.full_like(model.texts.embeddings, torch.nan)
    assert all(level.isfinite().all() for level in raw(model))
    model.unfold()
    assert not all(level.isfinite().all() for level in raw(model))


def test_predictions_are_folded_and_a_training_or_other_names_unfold(trained):
    model = trained("bn", False)
    keys = set(model.state_dict())
    first = predict(model)[0]
    assert model.folded
    assert set(model.state_dict()) == keys
    model.reparameterize = False
    plain = predict(model)[0]
    assert not model.folded
    torch.testing.assert_close(first.scores, plain.scores, atol=1e-5, rtol=1e-5)
    model.reparameterize = True
    predict(model)
    set_classes(model, "sea, a, b")
    assert not model.folded
    assert predict(model)[0].labels.max() == 2
    before = copy.deepcopy(model.state_dict())
    for undone in (lambda: model.train(), lambda: model.double().float(), lambda: model.load_state_dict(before)):
        model.eval().fold()
        undone()
        assert not model.folded
        assert model.bbox_head.rtm_cls[0].folded is None


def test_a_name_keeps_its_scores_wherever_it_stands(trained):
    model = trained("l2", True)
    before = raw(model)
    set_classes(model, "tree, lake, cat, sea, dog")
    after = raw(model)
    for one, other in zip(before[:3], after[:3], strict=True):
        torch.testing.assert_close(other[:, [2, 4, 1, 3, 0]], one, atol=1e-4, rtol=1e-4)


def test_each_image_is_compared_with_its_own_names_and_others(trained, small_clip_spec):
    model = trained("bn", False)
    model.most_names = 3
    data = batch(labels=((0, 2), (1, 4)))
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        texts, samples = model._drawn(data["data_samples"])
        assert texts.shape == (2, 3, model.texts.embed_dim)
        for place, (own, drawn) in enumerate(zip(data["data_samples"], samples, strict=True)):
            labels = own.gt_instances.labels
            torch.testing.assert_close(texts[place][drawn.gt_instances.labels], model.texts.embeddings[labels])
            distances = torch.cdist(texts[place], model.texts.embeddings)
            chosen = sorted(distances.argmin(dim=1).tolist())
            assert len(set(chosen)) == 3
            seen.update(set(chosen) - set(labels.tolist()))
    assert [own.gt_instances.labels.tolist() for own in data["data_samples"]] == [[0, 2], [1, 4]]
    assert seen == {0, 1, 2, 3, 4}
    model.most_names = 1  # never fewer than an image shows
    assert model._drawn(data["data_samples"])[0].shape[1] == 2
    assert sum(losses(model, data).values()).isfinite()
    assert model.bbox_head.num_classes == model.bbox_head.cls_out_channels == 5
    model.most_names = 80
    assert model._drawn(data["data_samples"])[0] is None


def test_fewer_names_are_another_loss(trained):
    model = trained("bn", False)
    state = copy.deepcopy(model.state_dict())
    whole = losses(model, batch())["loss_cls"]
    model.load_state_dict(state)
    model.most_names = 2
    torch.manual_seed(0)
    few = losses(model, batch())["loss_cls"]
    model.most_names = 80
    model.load_state_dict(state)
    assert few < whole


def test_an_image_without_objects_is_learned_from(trained):
    model = trained("bn", False)
    state = copy.deepcopy(model.state_dict())
    data = batch(count=1)
    data["data_samples"] = [sample(torch.zeros(0, 4), ())]
    found = losses(model, data)
    model.load_state_dict(state)
    assert found["loss_cls"] > 0
    assert found["loss_bbox"] == 0


def codes(names: list[str]) -> torch.Tensor:
    """A space of texts in which a colour is where the colours it is mixed of say."""
    return F.normalize(torch.tensor([COLOURS[name] + (0,) * 21 for name in names]).float(), dim=-1)


def scene(seed: int, names: list[str]) -> dict:
    """Four pictures, each with one square, 16 to 32 pixels wide, of a colour, on grey ground."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for _ in range(4):
        label = int(torch.randint(len(names), (), generator=generator))
        side = int(torch.randint(16, 33, (), generator=generator))
        left, top = torch.randint(SIDE - side, (2,), generator=generator).tolist()
        picture = torch.full((3, SIDE, SIDE), 110.0)
        picture[:, top : top + side, left : left + side] = 220 * torch.tensor(COLOURS[names[label]])[:, None, None]
        inputs.append((picture + torch.randn(picture.shape, generator=generator)).clamp(0, 255).to(torch.uint8))
        samples.append(sample(torch.tensor([[left, top, left + side, top + side]]).float(), [label]))
    return {"inputs": inputs, "data_samples": samples}


class ColourMaps(nn.Module):
    """A backbone that has nothing to learn: the means of cells, in random mixtures."""

    def __init__(self, channels: int = 16):
        super().__init__()
        drawn = torch.randn(channels, 4, 1, 1, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", drawn[:, :3].contiguous())
        self.register_buffer("bias", drawn[:, 3].flatten())

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(F.conv2d(F.avg_pool2d(pixels, side), self.weight, self.bias).relu() for side in (8, 16, 32))


def of_colours(settings: dict) -> dict:
    """With that backbone, and norms that settle in few steps."""
    norm = {"type": "BN", "momentum": 0.1}
    neck = {**settings["neck"], "in_channels": [16] * 3, "start_level": 0, "norm_cfg": norm}
    head = {**settings["bbox_head"], "norm_cfg": norm}
    return {**settings, "backbone": {"type": "mmdet.ColourMaps"}, "neck": neck, "bbox_head": head}


@pytest.mark.thorough
def test_a_model_that_learned_colours_follows_its_texts(small_clip_spec, monkeypatch):
    names = ["red", "green", "blue"]
    monkeypatch.setitem(MODELS.module_dict, "ColourMaps", ColourMaps)
    model = build(of_colours(config(small_clip_spec, "l2", True, classes=names)))
    model.init_weights()
    model.texts.embeddings = codes(names)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=8e-3)
    for step in range(30):
        optimizer.zero_grad()
        sum(losses(model, scene(step, names)).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    assert share_right(model, names) > 0.6
    set_classes(model, [*names[::-1], "yellow"])
    model.texts.embeddings = codes([*names[::-1], "yellow"])
    assert share_right(model, names[::-1]) > 0.6


def share_right(model, names: list[str]) -> float:
    """Of pictures that were not trained on: the surest box has the right name."""
    right = []
    for seed in range(100, 106):
        data = scene(seed, names)
        for found, true in zip(predict(model, data), data["data_samples"], strict=True):
            right.append(found.labels[found.scores.argmax()] == true.gt_instances.labels[0])
    return torch.stack(right).float().mean().item()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"most_names": 0}, "most_names=0"),
        ({"neck": {"type": "mmdet.FPN", "in_channels": [8] * 5, "out_channels": 8, "num_outs": 3}}, "RepVLPAN"),
        ({"bbox_head": {"norm": "layer"}}, 'norm="layer" is not usable; give one of l2, bn'),
        ({"bbox_head": {"with_objectness": True}}, "with_objectness"),
        ({"bbox_head": {"loss_cls": {"type": "mmdet.CrossEntropyLoss"}}}, "loss_cls is not a sigmoid"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(small_clip_spec, changed, says):
    settings = config(small_clip_spec)
    for key, value in changed.items():
        whole = not isinstance(value, dict) or "type" in value
        settings[key] = value if whole else {**settings[key], **value}
    with pytest.raises((ConfigError, TypeError), match=says) as caught:
        build(settings)
    assert "\n" not in str(caught.value)
