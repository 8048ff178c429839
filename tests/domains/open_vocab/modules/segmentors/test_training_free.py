import copy

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.domains.open_vocab.text_embeddings import set_classes

METHODS = ["MaskCLIP", "SCLIP", "ProxyCLIP", "CLIPer", "SegEarthOV"]


def picture(height=40, width=56, seed=0):
    """BGR, uint8, (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0] * 255).byte()


def sample(**metainfo):
    from mmseg.structures import SegDataSample

    made = SegDataSample()
    made.set_metainfo(metainfo)
    return made


def run(model, *pictures, samples=None):
    samples = samples or [sample(ori_shape=tuple(one.shape[-2:])) for one in pictures]
    return model.test_step({"inputs": list(pictures), "data_samples": samples})


def scores(model, one=None):
    return run(model, picture() if one is None else one)[0].seg_logits.data


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_dict_becomes_a_model_that_predicts(build, method):
    model = build(method)
    (result,) = run(model, picture(), samples=[sample(ori_shape=(30, 42))])
    assert result.pred_sem_seg.data.shape == (1, 30, 42)
    assert result.seg_logits.data.shape == (3, 30, 42)
    assert torch.equal(result.seg_logits.data.argmax(dim=0), result.pred_sem_seg.data[0])
    assert result.seg_logits.data.flatten(1).std(dim=1).min() > 0
    assert not sum(value.numel() for value in model.state_dict().values())


@pytest.mark.parametrize("method", METHODS)
def test_an_image_alone_is_as_in_a_batch(build, method):
    model, pictures = build(method), [picture(seed=seed) for seed in range(3)]
    for one, together in zip(pictures, run(model, *pictures)):
        torch.testing.assert_close(scores(model, one), together.seg_logits.data, atol=1e-4, rtol=1e-4)


def test_the_means_of_an_early_release_tell_a_window_about_the_others(build):
    released = build("ProxyCLIP", over_batch=True)
    batched = run(released, picture(), picture(seed=1))[0].seg_logits.data
    assert (batched - scores(released)).abs().max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", ["boat, bird", ["a", "b", "c", "d"]])
def test_new_names_are_taken_at_any_time(build, method, classes):
    model, fresh = build(method), build(method, classes=classes)
    vocabulary = set_classes(model, classes)
    torch.testing.assert_close(scores(model), scores(fresh))
    assert len(scores(model)) == len(vocabulary)


@pytest.mark.parametrize("method", METHODS)
def test_the_forward_modes_of_mmseg(build, method):
    model = build(method)
    inputs = model.data_preprocessor({"inputs": [picture(), picture(seed=1)]})["inputs"]
    assert model(inputs, mode="tensor").shape == (2, 3, 40, 56)
    assert model.extract_feat(inputs).shape[:2] == (2, 24)
    assert len(model(inputs, mode="predict")) == 2
    torch.testing.assert_close(model(inputs, mode="tensor")[0], model(inputs, mode="predict")[0].seg_logits.data)
    with pytest.raises(CapabilityError, match=f"^{method} has nothing to train; .*$"):
        model(inputs, [], mode="loss")


def test_it_may_be_wrapped_for_several_processes(build, tmp_path):
    import torch.distributed as dist
    from mmengine.model import MMDistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(build("SCLIP"))
        torch.testing.assert_close(scores(wrapped), scores(build("SCLIP")))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("method", METHODS)
def test_it_runs_under_autocast_and_copied(build, method):
    model = build(method)
    with torch.autocast("cpu", torch.bfloat16):
        rough = scores(copy.deepcopy(model))
    assert torch.isfinite(rough).all()
    assert (rough - scores(model)).abs().mean() < 0.1


@pytest.mark.parametrize(
    "option",
    [
        {"logit_scale": 5.0},
        {"templates": ["a drawing of a {}", "my {}"]},
        {"classes": {"cat": {"synonyms": ["kitten"]}, "dog": [], "sea": []}},
        {"background_words": "sky, wall"},
        {"crop": 24},
        {"crop": 0},
        {"stride": 8},
        {"short_side": 64},
        {"data_preprocessor": {"type": "mmseg.SegDataPreProcessor", "mean": [0.0] * 3, "std": [255.0] * 3}},
    ],
)
def test_every_common_option_changes_a_result(build, option):
    assert (scores(build("SCLIP")) - scores(build("SCLIP", **option))).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("MaskCLIP", {"pd_thd": 1.0}),
        ("MaskCLIP", {"ks_thd": 1.0}),
        ("SCLIP", {"pamr_steps": 2}),
        ("ProxyCLIP", {"beta": 0.5}),
        ("ProxyCLIP", {"gamma": 9.0}),
        ("ProxyCLIP", {"proxy_layer": 0}),
        ("ProxyCLIP", {"proxy_layer": "tokens"}),
        ("SegEarthOV", {"upsampler": "none"}),
        ("SegEarthOV", {"global_weight": 0.0}),
        ("SegEarthOV", {"long_side": 48}),
    ],
)
def test_every_option_of_a_method_changes_a_result(build, method, option):
    assert (scores(build(method)) - scores(build(method, **option))).abs().max() > 1e-4


def test_options_of_options_change_a_result(build):
    smoothed = scores(build("MaskCLIP", ks_thd=1.0))
    assert (smoothed - scores(build("MaskCLIP", ks_thd=1.0, released=True))).abs().max() > 1e-4
    refined = scores(build("SCLIP", pamr_steps=2))
    assert (refined - scores(build("SCLIP", pamr_steps=2, pamr_dilations=(1,)))).abs().max() > 1e-4


@pytest.mark.parametrize("windows", [1, 3, 100])
@pytest.mark.parametrize("method", METHODS)
def test_windows_a_batch_change_nothing(build, method, windows):
    ours = scores(build(method, crop=32, windows_per_batch=windows))
    torch.testing.assert_close(ours, scores(build(method, crop=32)), atol=1e-4, rtol=1e-4)


def test_probabilities_are_those_of_all_words_together(build):
    model = build("SCLIP", classes={"cat": {"synonyms": ["kitten", "tom"]}, "dog": [], "sea": []})
    inputs = model.data_preprocessor({"inputs": [picture()]})["inputs"]
    (logits,) = model.image_logits([model.resized(inputs[0])], [(40, 56)])
    probabilities = torch.softmax(40 * logits, dim=0)
    expected = torch.stack([probabilities[:3].amax(dim=0), probabilities[3], probabilities[4]])
    torch.testing.assert_close(scores(model), expected, atol=1e-5, rtol=1e-4)


def test_unsure_pixels_are_background(build):
    model = build("SCLIP", classes="cat, background, sea")
    threshold = float(scores(model).amax(dim=0).median())
    (result,) = run(build("SCLIP", classes="cat, background, sea", prob_thd=threshold), picture())
    best, chosen = result.seg_logits.data.max(dim=0)
    expected = torch.where(best < threshold, torch.ones_like(chosen), chosen)
    assert torch.equal(result.pred_sem_seg.data[0], expected)
    assert not torch.equal(chosen, expected)


def test_small_classes_lose_their_pixels(build):
    classes = "background, cat, dog, sea, boat"
    before = scores(build("SCLIP", classes=classes)).argmax(dim=0)
    areas = torch.bincount(before.flatten(), minlength=5)[1:].float()
    shares = areas / areas.sum()
    present = shares[shares > 0].sort().values
    assert len(present) > 1
    threshold = float(present[:2].mean())
    after = run(build("SCLIP", classes=classes, area_thd=threshold), picture())[0].pred_sem_seg.data
    dropped = [index + 1 for index, share in enumerate(shares) if 0 < share <= threshold]
    assert len(dropped) == 1 and not set(dropped) & set(after.unique().tolist())


def test_what_gives_pixels_to_the_background_needs_one(build):
    for option in ({"prob_thd": 0.2}, {"area_thd": 0.1}):
        with pytest.raises(ConfigError, match="no class is named 'background'"):
            build("SCLIP", **option)
    model = build("SCLIP", classes="background, cat", prob_thd=0.2)
    set_classes(model, "cat, dog")
    with pytest.raises(ConfigError, match="prob_thd gives pixels to the background"):
        scores(model)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"crop": -1}, "crop=-1"),
        ({"stride": 0}, "stride=0"),
        ({"short_side": 0}, "short_side=0"),
        ({"windows_per_batch": 0}, "windows_per_batch=0"),
        ({"logit_scale": 0}, "logit_scale=0"),
        ({"prob_thd": 2}, "prob_thd=2"),
        ({"area_thd": 1}, "area_thd=1"),
        ({"pamr_steps": -1}, "pamr_steps=-1"),
        ({"pamr_dilations": ()}, "pamr_dilations="),
    ],
)
def test_bad_options_say_which(build, option, said):
    with pytest.raises(ConfigError, match=said):
        build("SCLIP", **option)


def test_padding_is_not_part_of_the_image(build):
    padded = build(
        "SCLIP",
        data_preprocessor={
            "type": "mmseg.SegDataPreProcessor",
            "mean": build("SCLIP").data_preprocessor.mean.flatten().tolist(),
            "std": build("SCLIP").data_preprocessor.std.flatten().tolist(),
            "bgr_to_rgb": True,
            "size_divisor": 64,
            "test_cfg": {"size_divisor": 64},
        },
    )
    torch.testing.assert_close(scores(padded), scores(build("SCLIP")), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 2), ("vertical", 1)])
def test_flipped_images_give_maps_the_right_way_round(build, direction, axis):
    model, flipped = build("SCLIP"), picture().flip(axis)
    told = sample(ori_shape=(40, 56), flip=True, flip_direction=direction)
    (result,) = run(model, flipped, samples=[told])
    torch.testing.assert_close(result.seg_logits.data.flip(axis), scores(model, flipped))


def test_pixels_are_normalised_for_the_backbone(build):
    model = build("SCLIP")
    tower = model.tower(torch.device("cpu"))
    made = model.data_preprocessor({"inputs": [picture()]})["inputs"][0]
    rgb = picture().flip(0) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (tower.image_mean, tower.image_std))
    torch.testing.assert_close(made, (rgb - mean) / std, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["MaskCLIP", "ProxyCLIP"])
def test_a_resnet_has_values_of_its_own(build, resnet_clip, method):
    model = build(method, backbone=resnet_clip)
    assert model.crop == (0 if method == "MaskCLIP" else 32)
    assert scores(model, picture(96, 128)).shape == (3, 96, 128)


def test_keys_of_a_resnet_smooth(build, resnet_clip):
    big = picture(96, 128)
    plain, smoothed = (scores(build("MaskCLIP", backbone=resnet_clip, ks_thd=thd), big) for thd in (0.0, 1.0))
    assert (plain - smoothed).abs().max() > 1e-4
    torch.testing.assert_close(smoothed.sum(dim=0), torch.ones(96, 128))


@pytest.mark.parametrize("method", ["SCLIP", "CLIPer"])
def test_methods_that_change_a_block_name_towers_that_have_one(build, resnet_clip, method):
    with pytest.raises(CapabilityError, match=r"no transformer blocks .* have it: other models of open_clip"):
        build(method, backbone=resnet_clip)


def test_a_runner_tests_it_with_mmsegs_own_metric(build, deep_clip, tmp_path):
    from mmengine.config import Config
    from mmengine.runner import Runner
    from PIL import Image

    (tmp_path / "img").mkdir()
    (tmp_path / "ann").mkdir()
    for seed in range(2):
        Image.fromarray(picture(seed=seed).permute(1, 2, 0).numpy()).save(tmp_path / "img" / f"{seed}.png")
        truth = np.random.default_rng(seed).integers(0, 3, (40, 56), dtype=np.uint8)
        Image.fromarray(truth).save(tmp_path / "ann" / f"{seed}.png")
    names = ("cat", "dog", "sea")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "mmseg.Resize", "scale": (64, 32), "keep_ratio": True}]
    pipeline += [{"type": "mmseg.LoadAnnotations"}, {"type": "mmseg.PackSegInputs"}]
    dataset = {
        "type": "mmseg.BaseSegDataset",
        "metainfo": {"classes": names},
        "data_root": str(tmp_path),
        "data_prefix": {"img_path": "img", "seg_map_path": "ann"},
        "img_suffix": ".png",
        "pipeline": pipeline,
    }
    model = {
        "type": "vladapt.SCLIP",
        "backbone": deep_clip,
        "classes": "cat, dog, sea",
        "templates": "name",
        "crop": 32,
    }
    config = {
        "model": {**model, "stride": 16, "short_side": 32},
        "work_dir": str(tmp_path / "work"),
        "default_scope": "mmseg",
        "test_dataloader": {
            "batch_size": 1,
            "dataset": dataset,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        },
        "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        "test_cfg": {},
        "log_level": "WARNING",
    }
    found = Runner.from_cfg(Config(config)).test()
    assert 0 < found["mIoU"] < 100
