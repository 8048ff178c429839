"""Volume segmentation as a task: a fit learns, its run labels new volumes on their grid, and bad input is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt import load_domain
from vladapt.cli import main
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import task_class
from vladapt.core.runs import Run
from vladapt.domains.medical.drawn_volumes import drawn_volume
from vladapt.testing import check_task

TASK = "volume-segmentation"
TINY = {"steps": 2, "width": 2, "patch_size": "8,12,12", "largest": "no", "augment": "none", "device": "cpu"}


def fit(tmp_path, **changes):
    return vladapt.fit(domain="medical", task=TASK, out=str(tmp_path / "runs"), **{**TINY, **changes})


def test_the_contract(tiny_set):
    given = {**TINY, "batch_size": 1, "data": str(tiny_set)}
    check_task(task_class(TASK), load_domain("medical"), images=sorted((tiny_set / "images").iterdir())[:2], **given)


def test_a_fit_learns_and_says_how_sure_it_is(fitted):
    adapted = fitted.metrics["adapted"]
    assert adapted["dice_shell"] > 0.6 and set(adapted) >= {"dice", "surface_dice", "hd95_mm", "missed"}
    low, high = fitted.metrics["metric_intervals"]["adapted"]["dice"]
    assert low <= adapted["dice"] <= high and fitted.metrics["test_groups"] == 6
    page = (fitted.run / "report.html").read_text()
    assert "HD95 is MONAI" in page and "What it finds" in page and "Structure by structure" in page


def test_labels_of_new_volumes_lie_on_their_grid(fitted, volume_files, tmp_path):
    turned = nibabel.load(volume_files[3])
    turned = nibabel.as_closest_canonical(turned).slicer[:, :, :]
    flipped = nibabel.Nifti1Image(np.asarray(turned.dataobj)[::-1], turned.affine @ flip(turned.shape[0]))
    nibabel.save(flipped, tmp_path / "flipped.nii.gz")
    images = [volume_files[3], tmp_path / "flipped.nii.gz"]
    found = vladapt.predict(fitted.run, images, out=str(tmp_path / "out"), device="cpu")
    one, other = (nibabel.load(tmp_path / "out" / f"{name}.nii.gz") for name in (volume_files[3].stem, "flipped"))
    assert np.allclose(one.affine, turned.affine) and np.allclose(other.affine, flipped.affine)
    assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj)[::-1])
    truth = drawn_volume(3)[1]
    inside = np.asarray(one.dataobj) == 1
    assert 2 * (inside & (truth == 1)).sum() > 0.6 * (inside.sum() + (truth == 1).sum())
    rows = found.rows()
    assert rows[0]["millilitres"] == rows[1]["millilitres"] and "shell" in rows[0]["summary"]
    assert rows[0]["millilitres"]["shell"] == pytest.approx(
        inside.sum() * turned.header.get_zooms()[2] / 1000, abs=1e-3
    )
    picture = np.asarray(Image.open(tmp_path / "out/flipped.png"))
    assert picture.ndim == 3 and np.ptp(picture.astype(int), axis=-1).any()


def flip(size):
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = size - 1
    return matrix


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/volume_segmentation.py."""
    sys.path.insert(0, str(Path(vladapt.__file__).parent / "benchmarks"))
    try:
        import volume_segmentation
    finally:
        sys.path.pop(0)
    return volume_segmentation


@pytest.fixture
def planned(benchmark):
    """planned(**options): (data, plan, recipe) of the sample."""
    return lambda **options: benchmark.planned("sample", 20, **options)


def test_a_fit_is_the_loop_of_monai(benchmark, planned, tmp_path):
    """In float64: 20 steps with momentum make the rounding of float32 grow, which differs between processors."""
    MonaiLoop, apart, ours = benchmark.MonaiLoop, benchmark.largest_difference, benchmark.ours
    data, plan, recipe = planned(width=2, patch_size=(8, 16, 16))
    plan.optim_wrapper.clip_grad.max_norm = 0.3  # small enough to be reached
    loop = MonaiLoop(plan, recipe.seed, torch.float64)
    loop.train(20)
    model = ours(plan, 20, recipe.seed, torch.float64)
    assert next(model.parameters()).dtype == torch.float64 and apart(model, loop) < 1e-6
    assert apart(model, MonaiLoop(plan, recipe.seed, torch.float64)) > 1e-2  # the training moves them
    assert apart(ours(plan, 20, recipe.seed), loop) < 1e-3  # float32
    from vladapt.domains.medical.segmenting.running import Labeller
    from vladapt.domains.medical.volumes import Slabs

    item = data.split("test")[0]
    found = Labeller(model).labels(Slabs([item.source]), tmp_path / "labels.raw")
    assert len(np.unique(found)) > 1 and (found != loop.labels(item.source)).sum() <= 2


def test_patches_are_those_of_monai(benchmark, planned):
    """Values to the rounding of NormalizeIntensity, which computes in float32; labels exactly."""
    _, plan, recipe = planned(width=2, patch_size=(8, 16, 16))
    assert benchmark.patch_difference(benchmark.MonaiLoop(plan, recipe.seed, exact=False)) < 1e-5


@pytest.mark.thorough(but=("segresnet",))
@pytest.mark.parametrize("network", ["segresnet-ds", "swin-unetr"])
def test_other_networks_learn_too(network, planned):
    from vladapt.registry import MODELS

    plan = planned(network=network, width=12 if network == "swin-unetr" else 4)[1]
    assert plan.model.network.type.lower().endswith(network.replace("-", ""))
    torch.manual_seed(0)
    model = MODELS.build(plan.model.to_dict())
    side = plan.vladapt.patch_size
    patches, labels = torch.randn(1, 1, *side), torch.randint(0, 3, (1, 1, *side), dtype=torch.uint8)
    loss = model(patches, labels, mode="loss")["loss"]
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.eval()(patches).shape == (1, 3, *side)


def test_a_plan_says_what_would_be_trained(data_dir):
    from vladapt.core.commands.tables import facts_table
    from vladapt.core.engine.fit import plan
    from vladapt.core.recipes.resolve import resolve

    folder = data_dir / "medical" / "hippocampus"
    if not folder.is_dir():
        pytest.skip("no hippocampus")
    flags = {"domain": "medical", "task": TASK, "data.path": str(folder), "data.class_names": "anterior,posterior"}
    facts = plan(resolve(flags={**flags, "width": 8}))
    assert facts["patch_size"] == [40, 56, 40] and facts["filters"] == [8, 16, 32, 64]  # nnU-Net's for this set
    assert facts["fingerprint"]["cases"] == 12 and facts["fingerprint"]["spacing"] == (1, 1, 1)
    assert facts_table(facts).row_count > 12
    with pytest.raises(CapabilityError, match="--plan"):
        plan(resolve(flags={"domain": "medical"}))


def test_shots_count_training_volumes(tmp_path, tiny_set):
    run = fit(tmp_path, shots=2, data=str(tiny_set)).run
    assert len(Run.open(run).info.splits["train"]) == 2


def test_bad_options_are_refused(tmp_path):
    for changes, words in (
        ({"patch_size": "8,8"}, "three numbers"),
        ({"network": "swin-unetr", "width": 10}, "multiple of 12"),
        ({"epochs": 1, "steps": 3}, "give one of them"),
        ({"shots": 0}, "--shots 0"),
        ({"classes": "a,b"}, "--classes"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit(tmp_path, **changes)


def test_volumes_of_other_channels_and_structures_are_refused(fitted, tmp_path, write_set, volume_files):
    values, labels, _ = drawn_volume(0)
    several = tmp_path / "several.nii"
    nibabel.save(nibabel.Nifti1Image(np.stack([values, values], -1), np.eye(4)), several)
    with pytest.raises(DataError, match="2 channels"):
        vladapt.predict(fitted.run, [several], device="cpu")
    strange = write_set("strange", [(values, labels)] * 2, {"0": "background", "1": "liver", "2": "core"})
    with pytest.raises(ConfigError, match=r"structure liver.*shell, core"):
        vladapt.evaluate(fitted.run, data=str(strange), device="cpu")
    with pytest.raises(CapabilityError, match="fixed structures"):
        vladapt.predict(fitted.run, [volume_files[0]], classes="liver,core", device="cpu")


def test_volumes_of_several_sets_need_one_that_learns_from_parts(tmp_path, write_set):
    drawn = [drawn_volume(number)[:2] for number in range(6)]
    write_set("both/one", drawn[:3], {"0": "background", "1": "shell", "2": "core"})
    whole = [(values, (labels > 0).astype(np.uint8)) for values, labels in drawn[3:]]
    write_set("both/two", whole, {"0": "background", "1": "ball"})
    with pytest.raises(DataError, match="different structures"):
        fit(tmp_path, data=str(tmp_path / "both"))


def test_an_ensemble_averages_networks_of_folds(tmp_path, tiny_set):
    from safetensors.torch import load_file

    from vladapt.core.tasks import KeptModel

    result = fit(tmp_path, ensemble=2, largest="auto", data=str(tiny_set))
    run = Run.open(result.run)
    weights = load_file(run.adapter_path)
    first = [name for name in weights if name.startswith("networks.0.") and name.endswith("weight")]
    assert any(not torch.equal(weights[name], weights[name.replace("networks.0", "networks.1")]) for name in first)
    model = KeptModel(run).load(torch.device("cpu"))
    patches = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    apart = [network(patches) for network in model.networks]
    assert len(apart) == 2 and torch.allclose(model(patches), (apart[0] + apart[1]) / 2, atol=1e-5)
    assert vladapt.evaluate(result.run, device="cpu")["adapted"]["dice"] == result.metrics["adapted"]["dice"]


def test_folds_keep_patients_together_and_leave_each_out_once(planned):
    from vladapt.domains.medical.segmenting.folds import fold_plans

    data, plan, _ = planned(width=2, patch_size=(8, 16, 16))
    items = [item.with_(group=f"patient {number // 2}") for number, item in enumerate(data.items)]
    data = data.with_items(items)
    pool = [item for item in items if item.split != "test"]
    parts = list(fold_plans(plan, data, 3, seed=1))
    assert sorted(item.id for _, held_out in parts for item in held_out) == sorted(item.id for item in pool)
    for of_fold, held_out in parts:
        files = {case["mask"] for case in of_fold.train_dataloader.dataset.cases}
        assert len(files) == len(pool) - len(held_out) and not files & {str(item.target.file) for item in held_out}
        learned = {item.group for item in pool if str(item.target.file) in files}
        assert not learned & {item.group for item in held_out} and of_fold.model.members == 1
    with pytest.raises(ConfigError, match="--ensemble 15"):
        list(fold_plans(plan, data, 15, seed=1))
    assert [len(held_out) for _, held_out in fold_plans(plan, data, 1, seed=1)] == [len(data.split("val"))]


def test_the_largest_component_is_kept_where_that_is_better(planned, fitted):
    from vladapt.core.tasks import KeptModel
    from vladapt.domains.medical.segmenting.running import keep_largest

    plan, model = planned(width=2)[1], KeptModel(Run.open(fitted.run)).load(torch.device("cpu"))
    for gains, how, chosen in (
        ([[0.1, -0.2], [float("nan"), 0.1]], "auto", [0]),
        ([], "auto", []),
        ([], "yes", [0, 1]),
        ([[1.0, 1.0]], "no", []),
    ):
        keep_largest(model, plan, gains, how)
        assert plan.vladapt.decision.largest == chosen == model.cfg.vladapt.decision.largest


def test_regions_overlap(tmp_path):
    from vladapt.registry import MODELS

    torch.manual_seed(0)
    network = {"type": "vladapt.DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    network |= {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [2, 4, 4]}
    model = MODELS.build({"type": "vladapt.VolumeSegmentor", "network": network, "kind": "regions"})
    patches, labels = torch.randn(2, 1, 8, 8, 8), torch.randint(0, 2, (2, 2, 8, 8, 8), dtype=torch.uint8)
    loss = model(patches, labels, mode="loss")["loss"]
    scores = model.networks[0](patches)
    share = scores.sigmoid()
    axes = (2, 3, 4)
    dice = 1 - (2 * (share * labels).sum(axes) + 1e-5) / (share.sum(axes) + labels.sum(axes) + 1e-5)
    binary = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels.float())
    assert torch.allclose(loss, dice.mean() + binary, atol=1e-5)


def test_mirrored_views_are_averaged():
    from vladapt.registry import MODELS

    torch.manual_seed(0)
    network = {"type": "vladapt.DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    network |= {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [2, 4, 4]}
    model = MODELS.build({"type": "vladapt.VolumeSegmentor", "network": network, "mirrored": True, "members": 2}).eval()
    patches = torch.randn(1, 1, 8, 8, 8)
    found = model(patches)
    assert torch.allclose(found, model(patches.flip(2)).flip(2), atol=1e-5)
    views = [net(patches.flip(axes)).flip(axes) for net in model.networks for axes in _all_axes()]
    assert torch.allclose(found, torch.stack(views).mean(dim=0), atol=1e-5)


def _all_axes():
    from itertools import combinations

    return [axes for count in range(4) for axes in combinations((2, 3, 4), count)]


def test_masks_of_a_series_are_written_in_its_geometry(fitted, volume_files, write_volume, tmp_path):
    """The labels of a DICOM series are those of the same volume as NIfTI, as SEG and as NIfTI by its name's hash."""
    from vladapt.domains.medical.volumes import read_structures, read_volume

    drawn = read_volume(volume_files[3])
    whose = {"StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.2.9", "PatientID": "MRN-77", "PatientName": "Doe"}
    voxels = np.rint(drawn.numpy()[0]).astype(np.int16)
    folder = write_volume(tmp_path / "ct", voxels, drawn.affine.numpy(), **whose)
    out = tmp_path / "out"
    vladapt.predict(fitted.run, [folder], out=str(out), outputs="dicom-seg,nifti", device="cpu")
    (plain,), (hashed,) = out.glob("*.nii.gz"), (out / "nifti").glob("image-*.nii.gz")
    one, other = nibabel.load(plain), nibabel.load(hashed)
    assert np.array_equal(one.dataobj, other.dataobj) and np.allclose(one.affine, other.affine, atol=1e-5)
    structures = read_structures(out / "dicom-seg" / "0001.dcm", sorted(folder.iterdir()))
    labels = np.asarray(one.dataobj)
    numbers = {"shell": 1, "core": 2}
    assert set(structures.names) == {name for name, number in numbers.items() if (labels == number).any()} != set()
    for name, mask in zip(structures.names, structures.masks.numpy()):
        assert np.array_equal(mask, labels == numbers[name])
    with pytest.raises(DataError, match="--as dicom-seg: none of the 1 volumes is a DICOM file"):
        vladapt.predict(fitted.run, [volume_files[3]], out=str(tmp_path / "no"), outputs="dicom-seg", device="cpu")


def test_volumes_are_called_so(fitted, volume_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("scan.nii").write_bytes(volume_files[0].read_bytes())
    for arguments in (["eval", fitted.run], ["predict", fitted.run, "scan.nii", "--out", "out"]):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert ended.value.code == 0 and "volume" in out and "image" not in out, err
    with pytest.raises(SystemExit):
        main(["fit", "--domain", "medical", "--task", "volume-segmentation", "--data", str(tmp_path)])
    assert "with the folders 'images' and 'labels'" in capsys.readouterr().err
