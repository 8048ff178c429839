"""SAM inside mmdet: masks are transformers' own, the losses are what is written out, the encoder is asked once."""

import numpy as np
import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from PIL import Image

from vladapt import ConfigError
from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.core.data.files import loader
from vladapt.core.data.images import IMAGE
from vladapt.core.tasks.config_training.runner import quiet_mm
from vladapt.domains.open_vocab.data.prompts import PROMPTS
from vladapt.domains.open_vocab.hub_models.source import hub_model
from vladapt.domains.open_vocab.inference.outlining import segmenter_of
from vladapt.domains.open_vocab.inference.running import outcomes
from vladapt.domains.open_vocab.modules.detectors import sam_segmenter
from vladapt.domains.open_vocab.modules.detectors.sam_segmenter import SAMSegmenter, dice, shares_of_pixels
from vladapt.domains.open_vocab.remembering.low_rank import add_low_rank, merge_low_rank

from .tiny_sam import TINY, saved

HEIGHT, WIDTH = 45, 61
BOXES = [[3.0, 4.0, 30.0, 33.0], [10.0, 20.0, 50.0, 40.0]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Type -> transformers' model, its processor, and ours from the folder that holds both."""

    def make(kind):
        model, processor = TINY[kind]()
        place = saved(tmp_path_factory.mktemp(kind), model, processor)
        return model, processor, place, segmenter_of(place, CPU)

    kept = {}
    return lambda kind: kept[kind] if kind in kept else kept.setdefault(kind, make(kind))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def outlined(pixels, tmp_path):
    """outlined(segmenter, boxes, facts=None) -> its `pred_instances`."""

    def ask(segmenter, boxes, facts=None):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        target = Boxes(boxes=tuple(map(tuple, boxes)), labels=(0,) * len(boxes), facts=facts)
        data = DomainData([Item(id="a", source=tmp_path / "a.png", target=target)], ("",), loader((IMAGE,)))
        return next(outcomes(segmenter, data, data.items))[1].pred_instances

    return ask


def of_transformers(model, processor, pixels, three=False, **prompts):
    """(n, 3 or 1, H, W) masks and their estimated overlaps, as transformers' own lines give them."""
    inputs = processor(images=Image.fromarray(pixels), return_tensors="pt", **prompts)
    names = ("pixel_values", "input_boxes", "input_points", "input_labels")
    with torch.no_grad():
        outputs = model(**{name: inputs[name] for name in names if name in inputs}, multimask_output=three)
    sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
    return processor.image_processor.post_process_masks(outputs.pred_masks, *sizes)[0], outputs.iou_scores[0]


@pytest.mark.parametrize("kind", TINY)
def test_masks_of_boxes_are_those_of_transformers(made, pixels, outlined, kind):
    model, processor, _, ours = made(kind)
    wanted, overlaps = of_transformers(model, processor, pixels, input_boxes=[BOXES])
    found = outlined(ours, BOXES)
    assert 0 < found.masks.float().mean() < 1 and torch.equal(found.masks, wanted[:, 0])
    torch.testing.assert_close(found.scores, overlaps[:, 0].clamp(0, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.bboxes, torch.tensor(BOXES), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", TINY)
def test_points_are_asked_as_transformers_asks_them(made, pixels, outlined, kind):
    """One point gets the best of three masks, several get the single one; those beside the object count."""
    model, processor, _, ours = made(kind)
    told = [
        {"box": False, "points": [[20.0, 30.0]], "positive": [1]},
        {"box": False, "points": [[20.0, 30.0], [40.0, 10.0]], "positive": [1, 0]},
    ]
    found = outlined(ours, [(20.0, 30.0, 20.0, 30.0), (20.0, 10.0, 40.0, 30.0)], {PROMPTS: told})
    masks, overlaps = of_transformers(model, processor, pixels, True, input_points=[[[[20, 30]]]], input_labels=[[[1]]])
    assert torch.equal(found.masks[0], masks[0, overlaps[0].argmax()])
    masks, _ = of_transformers(model, processor, pixels, input_points=[[[[20, 30], [40, 10]]]], input_labels=[[[1, 0]]])
    assert torch.equal(found.masks[1], masks[0, 0])
    rows, columns = np.nonzero(found.masks[1].numpy())
    assert found.bboxes[1].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_box_with_points_differs_from_the_box_and_from_the_points(made, outlined):
    *_, ours = made("sam")
    box = outlined(ours, BOXES[:1]).masks
    told = [{"box": True, "points": [[8.0, 30.0]], "positive": [0]}]
    both = outlined(ours, BOXES[:1], {PROMPTS: told}).masks
    assert not torch.equal(both, box)
    told = [{"box": True, "points": [[8.0, 30.0]], "positive": [1]}]
    assert not torch.equal(both, outlined(ours, BOXES[:1], {PROMPTS: told}).masks)


def test_boxes_are_asked_together_as_they_are_alone(made, outlined):
    *_, ours = made("sam2")
    boxes = [(float(x), 3.0, x + 20.0, 30.0) for x in range(35)]
    together = outlined(ours, boxes).masks
    assert torch.equal(together[34], outlined(ours, boxes[34:]).masks[0])


def truth(sizes, counts=(2, 1)):
    """Samples of training with rectangles as outlines, in pixels of an input of 64."""
    samples = []
    for (height, width), count in zip(sizes, counts, strict=True):
        masks = np.zeros((count, height, width), np.uint8)
        for place in range(count):
            masks[place, 3 + 7 * place : 31, 5:27] = 1
        boxes = torch.tensor([[5.0, 3.0 + 7 * place, 27.0, 31.0] for place in range(count)]).reshape(-1, 4)
        instances = InstanceData(bboxes=boxes, labels=torch.zeros(count).long())
        instances.masks = BitmapMasks(masks, height, width)
        about = {"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
        samples.append(DetDataSample(gt_instances=instances, metainfo=about))
    return samples


def trained(made, kind, **options):
    _, _, place, _ = made(kind)
    source = hub_model(place)
    how = {"jitter": 0.0, "keep_embeddings": False, **options}
    return SAMSegmenter(source.config, source.processor, pretrained=str(source.folder), **how).train()


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_each_term_is_the_loop_written_out(made, kind):
    """SAM pads its images to a square: pixels outside the image count in neither term."""
    model = trained(made, kind, loss_bce=2.0, loss_dice=3.0)
    sizes = [(48, 64), (64, 40)] if kind == "sam" else [(64, 64), (64, 64)]
    pixels, samples = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), truth(sizes)
    losses = model.loss(pixels, samples)
    bce, overlap = [], []
    transformers_model = made(kind)[0]
    for image, sample in zip(pixels, samples, strict=True):
        for box, mask in zip(sample.gt_instances.bboxes, sample.gt_instances.masks.masks, strict=True):
            with torch.no_grad():
                logits = transformers_model(
                    pixel_values=image[None], input_boxes=box[None, None], multimask_output=False
                ).pred_masks[0, 0, 0]
            if kind == "sam2":  # the released model may choose another mask than the one that is trained
                transformers_model.mask_decoder.dynamic_multimask_via_stability = False
                with torch.no_grad():
                    logits = transformers_model(
                        pixel_values=image[None], input_boxes=box[None, None], multimask_output=False
                    ).pred_masks[0, 0, 0]
                transformers_model.mask_decoder.dynamic_multimask_via_stability = True
            step = 64 // len(logits)
            height, width = sample.img_shape
            each, shared, ours, theirs = [], 0.0, 0.0, 0.0
            for row in range(-(-height // step)):
                for column in range(-(-width // step)):
                    share = mask[row * step : row * step + step, column * step : column * step + step].sum() / step**2
                    p = 1 / (1 + np.exp(-float(logits[row, column])))
                    each.append(-(share * np.log(p) + (1 - share) * np.log(1 - p)))
                    shared, ours, theirs = shared + p * share, ours + p, theirs + share
            bce.append(np.mean(each))
            overlap.append(1 - (2 * shared + 1) / (ours + theirs + 1))
    assert set(losses) == {"loss_bce", "loss_dice"} and len(bce) == 3
    assert losses["loss_bce"].item() == pytest.approx(2 * np.mean(bce), rel=1e-4)
    assert losses["loss_dice"].item() == pytest.approx(3 * np.mean(overlap), rel=1e-4)


@pytest.mark.parametrize("term", ["loss_bce", "loss_dice"])
def test_each_term_alone_teaches_the_mask_decoder_and_nothing_else(made, term):
    weights = {"loss_bce": 0.0, "loss_dice": 0.0, term: 1.0}
    model = trained(made, "sam", **weights)
    sum(model.loss(torch.randn(2, 3, 64, 64), truth([(64, 64)] * 2)).values()).backward()
    reached = {name for name, weight in model.model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert reached and all(name.startswith("mask_decoder.") and "iou" not in name for name in reached)


@pytest.mark.thorough(but=("sam3", "sam2"))
@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_steps_lower_the_loss_with_and_without_matrices_of_low_rank(made, kind):
    for rank in (None, 2):
        torch.manual_seed(0)
        model = trained(made, kind)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        if rank:
            with quiet_mm():
                add_low_rank(model, rank)
            model.load_state_dict(start)  # as a training loads its start after the matrices are there
        pixels, samples = torch.randn(2, 3, 64, 64), truth([(64, 64)] * 2)
        trains = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trains, lr=1e-2)
        first = model.loss(pixels, samples)
        for _ in range(8):
            optimizer.zero_grad()
            sum(model.loss(pixels, samples).values()).backward()
            optimizer.step()
        last = model.loss(pixels, samples)
        assert sum(last.values()) < 0.99 * sum(first.values()), rank
        if rank:
            merge_low_rank(model)
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
        assert len(changed) > 1 and "model.fine_tuned" in changed
        assert all(name.startswith("model.mask_decoder.") for name in changed - {"model.fine_tuned"})


def test_once_trained_the_trained_mask_answers_also_to_a_single_point(made, outlined):
    told = {PROMPTS: [{"box": False, "points": [[20.0, 30.0]], "positive": [1]}]}
    model, asked = trained(made, "sam2"), []
    model.cfg = made("sam2")[3].cfg
    masks = model.family.masks
    model.family.masks = lambda *args: asked.append(args[3]) or masks(*args)
    outlined(model.eval(), [(20.0, 30.0, 20.0, 30.0)], told)
    assert asked == [True] and model.model.mask_decoder.dynamic_multimask_via_stability
    model.family.masks = masks
    model.train().loss(torch.randn(1, 3, 64, 64), truth([(64, 64)], (1,)))
    again = trained(made, "sam2")
    again.load_state_dict(model.state_dict())  # a run keeps that it was trained
    again.cfg, masks = model.cfg, again.family.masks
    again.family.masks = lambda *args: asked.append(args[3]) or masks(*args)
    outlined(again.eval(), [(20.0, 30.0, 20.0, 30.0)], told)
    assert asked == [True, False] and not again.model.mask_decoder.dynamic_multimask_via_stability


def test_images_without_objects_teach_nothing_and_do_not_count(made):
    model = trained(made, "sam")
    pixels = torch.randn(2, 3, 64, 64)
    none = model.loss(pixels, truth([(64, 64)] * 2, (0, 0)))
    assert all(value.item() == 0 and value.requires_grad for value in none.values())
    one, both = model.loss(pixels[:1], truth([(64, 64)], (2,))), model.loss(pixels, truth([(64, 64)] * 2, (2, 0)))
    for name in one:
        torch.testing.assert_close(both[name], one[name])


def test_terms_are_divided_by_the_mean_number_of_objects_of_all_processes(made, monkeypatch):
    """Of two processes with 2 and 0 objects the mean of the gradients is that of one process with both images."""
    pixels = torch.randn(2, 3, 64, 64)
    both = trained(made, "sam").loss(pixels, truth([(64, 64)] * 2, (2, 0)))
    monkeypatch.setattr(sam_segmenter, "reduce_mean", lambda count: torch.tensor(1.0))
    parts = [
        trained(made, "sam").loss(pixels[place : place + 1], truth([(64, 64)], (count,)))
        for place, count in enumerate((2, 0))
    ]
    for name in both:
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, both[name])


def test_boxes_are_shaken_by_a_tenth_of_their_sides_and_no_more_than_twenty_pixels(made):
    model = trained(made, "sam", jitter=0.1)
    boxes = torch.tensor([[100.0, 100.0, 200.0, 140.0]]).repeat(4000, 1)
    moved = model._shaken(boxes) - boxes
    assert moved[:, 0::2].std() == pytest.approx(9.5, rel=0.06) and moved[:, 1::2].std() == pytest.approx(4, rel=0.05)
    assert moved.abs().max() <= 20.001
    assert torch.equal(trained(made, "sam", jitter=0.0)._shaken(boxes), boxes)


def test_no_more_objects_than_asked_for_are_learned(made):
    pixels, samples = torch.randn(1, 3, 64, 64), truth([(64, 64)], (2,))
    asked = []
    for most in (1, 64):
        model = trained(made, "sam", most_objects=most)
        masks = model.family.masks
        model.family.masks = lambda *args, masks=masks: asked.append(len(args[2])) or masks(*args)
        model.loss(pixels, samples)
    assert asked == [1, 2]


def test_the_encoder_sees_each_image_once_and_the_losses_are_the_same(made, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    pixels, samples = torch.randn(2, 3, 64, 64), truth([(64, 64)] * 2)
    plain = trained(made, "sam2").loss(pixels, samples)
    model, seen = trained(made, "sam2", keep_embeddings=True), []
    model.model.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(3):
        kept = model.loss(pixels, samples)
    assert len(seen) == 2  # two images, one pass each
    again = trained(made, "sam2", keep_embeddings=True)
    again.model.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    once_more = again.loss(pixels, samples)
    assert len(seen) == 2
    for name in plain:
        torch.testing.assert_close(kept[name], plain[name])
        assert torch.equal(once_more[name], kept[name])
    with torch.no_grad():
        next(again.model.vision_encoder.parameters()).add_(1)
    other = trained(made, "sam2", keep_embeddings=True)
    other.model.load_state_dict(again.model.state_dict())
    assert not torch.allclose(other.loss(pixels, samples)["loss_bce"], kept["loss_bce"])  # another encoder's maps


def test_maps_in_low_precision_or_of_another_configuration_are_others(made, tmp_path, monkeypatch):
    """Of the same pixels and weights; what one training keeps, another may not read."""
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    pixels = torch.randn(1, 3, 64, 64)
    model = trained(made, "sam", keep_embeddings=True)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.extract_feat(pixels)[0]
    full = trained(made, "sam", keep_embeddings=True).extract_feat(pixels)[0]
    wanted = trained(made, "sam").extract_feat(pixels)[0]
    assert torch.equal(full, wanted) and not torch.equal(low.float(), full)
    source = hub_model(made("sam")[2])
    vision = {**source.config["vision_config"], "layer_norm_eps": 0.5}
    config = {**source.config, "vision_config": vision}
    other, plain = (SAMSegmenter(config, source.processor, keep_embeddings=keep).train() for keep in (True, False))
    for changed in (other, plain):
        changed.load_state_dict(model.state_dict())
    assert torch.equal(other.extract_feat(pixels)[0], plain.extract_feat(pixels)[0])
    assert not torch.equal(other.extract_feat(pixels)[0], full)


def test_the_decoder_s_convolutions_of_larger_maps_are_trained(made):
    """They are the decoder's, though transformers runs them with the encoder."""
    model = trained(made, "sam2", keep_embeddings=False)
    sum(model.loss(torch.randn(1, 3, 64, 64), truth([(64, 64)], (2,))).values()).backward()
    assert all(getattr(model.model.mask_decoder, name).weight.grad.any() for name in ("conv_s0", "conv_s1"))


def test_shares_are_of_the_pixels_of_the_decoder():
    masks = torch.zeros(1, 6, 8)
    masks[0, :3, :6] = 1
    shares = shares_of_pixels(masks, (8, 8), (2, 2), (6, 8))
    assert shares.tolist() == [[[0.75, 0.375], [0.0, 0.0]]]
    assert shares_of_pixels(masks[:, :4], (8, 8), (2, 2), (4, 8)).shape == (1, 1, 2)


def test_dice_of_a_perfect_mask_is_nothing():
    target = torch.zeros(1, 4, 4)
    target[0, :2] = 1
    assert dice(target * 40 - 20, target).item() == pytest.approx(0, abs=1e-6)
    assert dice(20 - target * 40, target).item() == pytest.approx(1 - 1 / 17, abs=1e-6)


def test_a_tracker_is_not_trained_and_a_detector_is_no_sam(made):
    tracker = trained(made, "sam3_tracker")
    with pytest.raises(ConfigError, match="not trained here: SAM 3's training code is under a licence"):
        tracker.loss(torch.randn(1, 3, 56, 56), truth([(56, 56)], (1,)))
    with pytest.raises(ConfigError, match="rt_detr_v2 is no SAM"):
        SAMSegmenter({"model_type": "rt_detr_v2"}, {})
    with pytest.raises(ConfigError, match="--start hf:OWNER/NAME"):
        SAMSegmenter({}, {})
