"""Types that give maps and masks: loss, gradient, maps and objects are transformers' own on the same pixels."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("mmseg")
sys.path.insert(0, str(Path(__file__).parent))  # `import tiny_maps`
import tiny_maps  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.structures import InstanceData, PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from vladapt.core.errors import ConfigError  # noqa: E402
from vladapt.domains.open_vocab.hub_models import mask_queries, pixel_logits  # noqa: E402
from vladapt.domains.open_vocab.hub_models.families.eomt import mask_shares  # noqa: E402
from vladapt.domains.open_vocab.hub_models.family import family_of  # noqa: E402
from vladapt.domains.open_vocab.hub_models.pixel_logits import enlarged_logits  # noqa: E402
from vladapt.domains.open_vocab.hub_models.processor import image_processor  # noqa: E402

SIDE, CLASSES = tiny_maps.SIDE, 3
SIZES = [(50, 71), (64, 40)]


@pytest.fixture(scope="module")
def built():
    """Model type -> its family, our model, and transformers' with the same weights."""
    made = {}

    def build(name: str):
        if name not in made:
            family = family_of(tiny_maps.CLOSED[name](), CLASSES)
            with torch.random.fork_rng():
                torch.manual_seed(3)
                ours = family.build()
            theirs = getattr(transformers, family.model_class)(family.transformers_config())
            theirs.load_state_dict(ours.state_dict())
            made[name] = family, ours, theirs
        return made[name]

    return build


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def maps_of(fill=None):
    """Two images' truth, one of them smaller than the batch, with ignored pixels."""
    drawn = torch.randint(0, CLASSES, (8, 8), generator=torch.Generator().manual_seed(1))
    whole = drawn.repeat_interleave(8, 0).repeat_interleave(8, 1)
    whole[:9] = 255
    samples = []
    for labels in (whole, whole[:, :40]):
        labels = labels if fill is None else torch.full_like(labels, fill)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels[None].to(torch.uint8))))
    return samples


def stepped(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", tiny_maps.PIXELS)
def test_loss_of_pixels_is_that_of_transformers(built, pixels, name):
    family, ours, theirs = built(name)
    targets = family.targets(maps_of(), (SIDE, SIDE))
    labels = torch.stack([target["labels"] for target in targets])
    assert (labels[1, :, 40:] == 255).all()
    outputs = seeded(ours.train(), **family.inputs(pixels, None))
    wanted = seeded(theirs.train(), pixel_values=pixels, labels=labels)
    parts = family.losses(outputs, targets)
    assert set(parts) == {f"loss_{head}" for head in family.heads}
    torch.testing.assert_close(sum(parts.values()), wanted.loss)
    same_gradients(stepped(ours, sum(parts.values())), stepped(theirs, wanted.loss))
    if len(parts) > 1:  # its weight is the checkpoint's
        weighed = family_of({**tiny_maps.CLOSED[name](), "auxiliary_loss_weight": 0.8}, CLASSES).losses(
            outputs, targets
        )
        torch.testing.assert_close(weighed["loss_auxiliary_head"], 2 * parts["loss_auxiliary_head"])


@pytest.mark.parametrize("name", tiny_maps.PIXELS)
def test_a_batch_that_is_ignored_whole_teaches_nothing(built, pixels, name):
    family, ours, theirs = built(name)
    targets = family.targets(maps_of(255), (SIDE, SIDE))
    parts = family.losses(ours.train()(**family.inputs(pixels, None)), targets)
    assert sum(parts.values()) == 0
    assert not any(gradient.any() for gradient in stepped(ours, sum(parts.values())).values())
    nothing = theirs(pixel_values=pixels, labels=torch.full((2, SIDE, SIDE), 255))
    assert nothing.loss.isnan()  # what is avoided


def test_without_its_auxiliary_head_a_dpt_trains_too(pixels):
    family = family_of({**tiny_maps.dpt(), "use_auxiliary_head": False}, CLASSES)
    parts = family.losses(family.build()(pixels), family.targets(maps_of(), (SIDE, SIDE)))
    assert set(parts) == {"loss_head"}


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="two or more"):
        family_of(tiny_maps.segformer(), 1).build()


@pytest.mark.parametrize("name", tiny_maps.QUERIES)
def test_loss_of_queries_is_that_of_transformers(built, pixels, name):
    family, ours, theirs = built(name)
    targets = family.targets(maps_of(), (SIDE, SIDE))
    for target in targets:
        assert not target["masks"][:, :9].any()  # ignored pixels are in no mask
    outputs = seeded(ours.train(), **family.inputs(pixels, None), **family.truth(targets))
    more = {"output_hidden_states": True} if name == "maskformer" else {}
    wanted = seeded(theirs.train(), pixel_values=pixels, **more, **family.truth(targets))
    parts = family.losses(outputs, targets)
    torch.testing.assert_close(sum(parts.values()), wanted.loss)
    same_gradients(stepped(ours, sum(parts.values())), stepped(theirs, wanted.loss))
    assert len(parts) == 3 * 3  # of three layers, MaskFormer's queries before the first among them
    assert all(part > 0 for part in parts.values())


def seeded(model, **inputs):
    torch.manual_seed(5)  # of points and of dropout
    return model(**inputs)


@pytest.mark.parametrize("name", tiny_maps.QUERIES)
def test_a_batch_without_objects_teaches_that_there_is_none(built, pixels, name):
    family, ours, _ = built(name)
    targets = family.targets(maps_of(255), (SIDE, SIDE))
    outputs = seeded(ours.train(), **family.inputs(pixels, None), **family.truth(targets))
    parts = family.losses(outputs, targets)
    assert all(part == 0 for part_name, part in parts.items() if "cross_entropy" not in part_name)
    gradients = stepped(ours, sum(parts.values()))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["class_predictor.weight"].any()


@pytest.mark.parametrize("name", tiny_maps.QUERIES)
def test_objects_are_taught_by_their_outlines(built, name):
    family = built(name)[0]
    masks = np.zeros((3, 30, 20), np.uint8)
    masks[0, 2:9, 3:7] = masks[1, :, 10:] = 1  # the third covers no pixel
    objects = InstanceData(bboxes=torch.zeros(3, 4), labels=torch.tensor([2, 0, 1]), masks=BitmapMasks(masks, 30, 20))
    target = family.target(DetDataSample(gt_instances=objects, metainfo={"img_shape": (30, 20)}), (SIDE, SIDE))
    assert target["class_labels"].tolist() == [2, 0] and target["masks"].shape == (2, SIDE, SIDE)
    assert target["masks"].sum(dim=(1, 2)).tolist() == [28, 300]


@pytest.fixture
def drawn():
    """Raw answers for two images, in which classes and masks differ from place to place."""
    draw = torch.Generator().manual_seed(2)
    return SimpleNamespace(
        logits=torch.randn(2, CLASSES, 16, 16, generator=draw),
        class_queries_logits=3 * torch.randn(2, 8, CLASSES + 1, generator=draw),
        masks_queries_logits=3 * torch.randn(2, 8, 16, 16, generator=draw),
        patch_offsets=None,
    )


@pytest.mark.parametrize("name", tiny_maps.CLOSED)
def test_maps_are_those_of_the_processor(built, pixels, drawn, name):
    family, ours, _ = built(name)
    scores = family.scores(lambda **inputs: drawn, pixels)
    wanted = processor_of(family).post_process_semantic_segmentation(drawn, SIZES)
    for of_image, label_map, size in zip(scores, wanted, SIZES):
        assert torch.equal(enlarged_logits(of_image[None], size)[0].argmax(dim=0), label_map)
        assert len(label_map.unique()) == CLASSES
    with torch.no_grad():
        assert family.scores(ours.eval(), pixels).shape[:2] == (2, CLASSES)


@pytest.mark.parametrize("name", tiny_maps.QUERIES)
def test_objects_are_those_of_the_processor(built, drawn, name, monkeypatch):
    family = built(name)[0]
    if name == "eomt":  # whose processor pads
        monkeypatch.setattr(family, "padding", (0.0, 0.0, 0.0))
    many = {} if name == "eomt" else {"return_binary_maps": True}
    found = family.found(drawn, SIZES)
    wanted = processor_of(family).post_process_instance_segmentation(drawn, target_sizes=SIZES, threshold=0, **many)
    for number, (objects, of_image, size) in enumerate(zip(found, wanted, SIZES)):
        segments, objects.masks = of_image["segments_info"], family.masks(drawn, number, objects.queries, size)
        assert len(objects) == len(segments) > 0 and objects.masks.shape[1:] == size
        assert objects.labels.tolist() == [segment["label_id"] for segment in segments]
        assert objects.scores.tolist() == pytest.approx([segment["score"] for segment in segments], abs=1e-6)
        if name == "eomt":  # it gives one map, in which later objects cover earlier ones
            drawn_map = torch.full(size, -1.0)
            for number, mask in enumerate(objects.masks):
                drawn_map[mask] = number
            assert torch.equal(drawn_map, of_image["segmentation"])
        else:
            assert torch.equal(objects.masks, of_image["segmentation"].bool())
        for mask, box in zip(objects.masks, objects.bboxes):
            rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("name", tiny_maps.QUERIES)
def test_masks_that_cover_no_pixel_are_no_objects(built, drawn, name):
    drawn.masks_queries_logits = -drawn.masks_queries_logits.abs()
    for objects in built(name)[0].found(drawn, SIZES):
        assert len(objects) == 0 and objects.bboxes.shape == (0, 4)


@pytest.mark.parametrize("name", tiny_maps.QUERIES)
def test_objects_of_chosen_classes_alone(built, drawn, name):
    family = built(name)[0]
    turn = torch.tensor([2, 0, 1])
    one, turned, of_all = (family.found(drawn, SIZES, rows) for rows in (turn[:1], turn, None))
    for chosen, other, objects in zip(one, turned, of_all):
        assert len(chosen) and set(chosen.labels.tolist()) == {0}
        assert sorted(turn[other.labels].tolist()) == sorted(objects.labels.tolist())
        assert sorted(other.scores.tolist()) == pytest.approx(sorted(objects.scores.tolist()))


@pytest.mark.parametrize("size", [(80, 187), (113, 80), (70, 70)])
def test_eomt_sees_a_large_image_by_windows_as_its_processor_cuts_them(built, size):
    family, ours, theirs = built("eomt")
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    processor = transformers.EomtImageProcessor(size={"shortest_edge": SIDE}, do_split_image=True)
    inputs = processor([image], return_tensors="pt")
    whole = transformers.EomtImageProcessor(size={"shortest_edge": SIDE})([image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = processor.post_process_semantic_segmentation(
            theirs.eval()(**inputs), [size], return_segmentation_scores=True
        )[0]
        scores = enlarged_logits(family.scores(ours.eval(), whole), size)[0]
    torch.testing.assert_close(scores, wanted.segmentation_scores, rtol=1e-4, atol=1e-5)


def test_eomt_pads_a_small_image_and_leaves_out_what_it_padded(built):
    family, ours, _ = built("eomt")
    image = torch.randn(1, 3, 40, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        padded = family.scores(ours.eval(), torch.nn.functional.pad(image, (0, 0, 0, 24)))
        assert torch.equal(family.scores(ours, image), padded[:, :, :40])


def in_two_processes(monkeypatch, counts):
    """Counts are averaged over two processes, of which each is computed in turn: those of the other come from a first
    round."""
    seen = []

    def mean(count):
        seen.append(count.clone())
        if len(counts) < 2:
            return count
        return torch.stack([each[len(seen) - 1] for each in counts]).mean()

    monkeypatch.setattr(pixel_logits, "mean_over_processes", mean)
    monkeypatch.setattr(mask_queries, "mean_over_processes", mean)
    return seen


@pytest.mark.parametrize("name", ["segformer", "maskformer"])
def test_two_processes_have_the_loss_of_one_with_all_images(built, pixels, monkeypatch, name):
    """Though one has more pixels, or masks, that count: MaskFormer draws no points, so that both see the same."""
    family, ours, _ = built(name)
    ours.eval()
    targets = family.targets(maps_of(), (SIDE, SIDE))
    assert name == "segformer" or len(targets[0]["class_labels"]) == 3
    if name == "maskformer":  # one class alone in the second image
        targets[1] = {key: value[:1] for key, value in targets[1].items()}

    def loss(of):
        chosen = [targets[image] for image in of]
        outputs = ours(**family.inputs(pixels[of], torch.ones(len(of), SIDE, SIDE)), **family.truth(chosen))
        return sum(family.losses(outputs, chosen).values())

    together, alone = loss([0, 1]), (loss([0]) + loss([1])) / 2
    counts = []
    for image in (0, 1):
        seen = in_two_processes(monkeypatch, [])
        loss([image])
        counts.append(list(seen))
    shared = []
    for image in (0, 1):
        in_two_processes(monkeypatch, counts)
        shared.append(loss([image]))
    away = abs(sum(shared) / 2 - together)
    assert away < 1e-5 * together and abs(alone - together) > 10 * away


def processor_of(family):
    kind = getattr(transformers, family.processors[0])
    return kind(size={"shortest_edge": SIDE, "longest_edge": SIDE}) if "Eomt" in kind.__name__ else kind()


def test_masks_of_eomt_are_given_up_block_by_block(built):
    """As its authors have it: on COCO, 88,692 steps with four blocks; on Cityscapes, 19,902 with three."""
    for steps, starts in ((88692, [14782, 29564, 44346, 59128]), (19902, [3317, 8292, 13268])):
        for block, start in enumerate(starts):
            blocks = len(starts)
            assert mask_shares(blocks, (start - 2) / steps)[block] == 1
            assert 0.99 < mask_shares(blocks, (start + 20) / steps)[block] < 1
            assert mask_shares(blocks, (start + steps / 12) / steps)[block] == pytest.approx(0.5**0.9, abs=1e-3)
            assert mask_shares(blocks, (start + steps / 6 + 2) / steps)[block] == 0
    family, ours, _ = built("eomt")
    before = ours.attn_mask_probs.clone()
    family.annealed(ours, 1.0)
    assert not ours.attn_mask_probs.any()
    ours.attn_mask_probs.copy_(before)


def test_masks_of_eomt_are_followed_in_training_and_are_no_more_needed_after(built, pixels):
    family, ours, _ = built("eomt")
    ours.eval()
    with torch.no_grad():
        masked = ours(pixels).masks_queries_logits
        family.annealed(ours, 1.0)
        free = ours(pixels).masks_queries_logits
        family.annealed(ours, 0.0)
        again = ours(pixels).masks_queries_logits
    assert torch.equal(masked, again) and not torch.allclose(masked, free)


@pytest.mark.parametrize(
    ("size", "pads"), [({"height": 8, "width": 8}, False), ({"shortest_edge": 8, "longest_edge": 8}, True)]
)
def test_eomt_leaves_out_what_its_processor_padded_and_nothing_of_a_squeezed_image(size, pads):
    family = family_of({**tiny_maps.CLOSED["eomt"](), "image_size": 8}, CLASSES)
    options = {"kind": "EomtImageProcessor", "size": size, "do_pad": pads, **tiny_maps.IMAGENET}
    family.padding = image_processor(options).padding
    logits = torch.full((1, 8, 8), -1.0)
    logits[:, 4:] = 1  # the lower half of the input, which an image of twice the width does not reach
    mask = family.at_size(logits, (8, 16)) > 0
    assert mask.any() != pads and mask.shape == (1, 8, 16)
