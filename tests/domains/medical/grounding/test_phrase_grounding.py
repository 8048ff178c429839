"""Phrase grounding: maps in the pixels of an image, their scores, phrases that deny, a fit and what its run shows."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import chest_xrays
from PIL import Image

import vladapt
from vladapt.core.backbones import load_backbone
from vladapt.core.contracts import Item
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.registry import task_class
from vladapt.domains.medical import Medical
from vladapt.domains.medical.grounding import maps, scores
from vladapt.domains.medical.grounding.phrases import DENIED, sought_about, sought_by
from vladapt.domains.medical.grounding.scoring import GroundingScores, JudgedPhrase
from vladapt.testing import task_checks

TEMPLATES = ["a scan showing {}.", "there is {}."]


def test_maps_and_scores_are_those_of_the_released_code(agrees):
    agrees(chest_xrays.phrase_grounding)


# maps -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.sampled_from(["shortest", "squash"]),
    st.sampled_from([16, (16, 24)]),
    st.sampled_from([None, 16, 20]),
)
def test_patches_lie_where_the_preprocessing_took_them_from(size, mode, side, resize):
    """An image whose values tell their place goes through the preprocessing of a backbone."""
    from vladapt.core.backbones.preprocessing import Preprocess

    transform = Preprocess(side, (0, 0, 0), (1, 1, 1), "bilinear", mode, resize=resize)
    region = maps.Region.seen(transform.spec, size)
    rows, columns = (np.arange(length, dtype=np.float32) + 0.5 for length in size)
    places = np.stack([*np.meshgrid(rows / size[0], columns / size[1], indexing="ij"), np.zeros(size)], axis=2)
    pixels = transform(places.astype(np.float32))
    for channel, (start, part, whole) in enumerate(
        ((region.top, region.rows, region.height), (region.left, region.columns, region.width))
    ):
        middle = float(pixels[channel].mean()) * whole
        assert abs(middle - (start + part / 2)) <= 1 + part / 16, "within a pixel of the tower"
        seen = pixels[channel].amax() - pixels[channel].amin()
        assert float(seen) * whole == pytest.approx(part, abs=0.12 * whole + 2)


def test_other_preprocessing_is_refused():
    with pytest.raises(CapabilityError, match="'letterbox' does not say which part"):
        maps.Region.seen({"transform": "letterbox"}, (9, 9))


def test_a_map_has_no_value_where_the_tower_sees_nothing():
    heat = maps.Region.cropped((4, 9), 4, 4).spread(torch.arange(4.0).view(2, 2))
    assert heat.shape == (4, 9) and heat[:, :2].isnan().all() and heat[:, 6:].isnan().all()
    assert heat[0, 2:6].tolist() == [0, 0, 1, 1] and heat[3, 2:6].tolist() == [2, 2, 3, 3]
    smooth = maps.Region.cropped((4, 4)).spread(torch.arange(4.0).view(2, 2), maps.BILINEAR)
    assert smooth[0].tolist() == [0, 0.25, 0.75, 1]


def test_smoothing_keeps_the_mean_and_can_be_off():
    grid = torch.rand(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(maps.smoothed(grid, 0), grid)
    assert (
        maps.smoothed(grid, 2).mean() == pytest.approx(float(grid.mean())) and maps.smoothed(grid, 2).std() < grid.std()
    )


def test_several_wordings_count_by_their_raw_mean():
    raw = torch.tensor([[3.0, 0], [0, 1]])
    assert maps.phrase_feature(raw).tolist() == pytest.approx([3 / 10**0.5, 1 / 10**0.5])


# scores ---------------------------------------------------------------------------------------------------------------


def test_contrast_is_the_papers_equation():
    heat = torch.tensor([[1.0, 3.0, 0.0], [torch.nan, 2.0, 1.0]])
    inside = torch.tensor([[True, True, False], [True, False, False]])
    within, around = np.array([1, 3.0]), np.array([0, 2, 1.0])
    wanted = (within.mean() - around.mean()) / (within.var() + around.var()) ** 0.5
    assert scores.contrast(heat, inside) == pytest.approx(wanted)
    assert scores.contrast(torch.full((2, 3), 0.5), inside) == 0 == scores.contrast(heat, torch.zeros_like(inside))


def test_a_place_counts_for_the_first_of_the_boxes_that_cover_it():
    heat = torch.rand(6, 8, generator=torch.Generator().manual_seed(1))
    masks = scores.inside_boxes([(0, 0, 4, 4), (2, 0, 8, 3)], (6, 8))
    rest = heat.clone()
    rest[:4, :4] = torch.nan
    assert scores.contrasts(heat, masks) == [scores.contrast(heat, masks[0]), scores.contrast(rest, masks[1])]
    ours = scores.phrase_scores(heat, masks)
    assert ours["cnr"] == pytest.approx(sum(scores.contrasts(heat, masks)) / 2)
    assert ours["union_cnr"] == pytest.approx(scores.contrast(heat, masks.any(dim=0)))


def test_a_box_beyond_the_crop_is_missed():
    heat = torch.full((4, 8), torch.nan)
    heat[:, 2:6] = 0.9
    masks = scores.inside_boxes([(0, 0, 2, 4)], (4, 8))
    ours = scores.phrase_scores(heat, masks)
    assert (ours["cnr"], ours["pointing"], ours["miou"]) == (0, 0, 0)
    assert scores._overlaps(heat, scores.inside_boxes([(0, 0, 6, 4)], (4, 8))[0]) == pytest.approx([16 / 24] * 5)
    assert scores.chance(masks, heat.isfinite())["pointing"] == 0


def test_values_below_zero_count_unless_they_are_clamped():
    heat = -torch.rand(5, 5, generator=torch.Generator().manual_seed(2))
    masks = scores.inside_boxes([(0, 0, 2, 2)], (5, 5))
    assert scores.phrase_scores(heat, masks)["cnr"] == 0 != scores.phrase_scores(heat, masks, clamp=False)["cnr"]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.1, 5), st.floats(-2, 2))
def test_scores_keep_their_bounds_and_contrast_its_scale(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    heat = torch.rand(6, 7, generator=generator)
    masks = scores.inside_boxes([(1, 1, 4, 5)], (6, 7))
    ours = scores.phrase_scores(heat, masks)
    moved = scores.phrase_scores(scale * heat + shift, masks, clamp=False)
    assert moved["cnr"] == pytest.approx(ours["cnr"], rel=1e-3, abs=1e-4) and moved["pointing"] == ours["pointing"]
    assert 0 <= ours["miou"] <= 1 and ours["absolute_cnr"] == pytest.approx(abs(ours["cnr"]))
    perfect = masks[0].float()
    assert scores.phrase_scores(perfect, masks)["miou"] == 1 == scores.phrase_scores(perfect, masks)["pointing"]


def judged(label, patient, name, cnr):
    rows = {**dict.fromkeys(("cnr", "absolute_cnr", "union_cnr"), cnr), "pointing": float(cnr > 0), "miou": 0.5}
    return JudgedPhrase(Item(name, None, group=patient), None, label, (), rows, dict.fromkeys(rows, 0.0))


def test_findings_count_alike_and_patients_are_drawn():
    some = [judged(0, "a", "1", 3.0), judged(0, "a", "2", 1.0), judged(0, "b", "3", 2.0), judged(2, "c", "4", -4.0)]
    found = GroundingScores(some, ("Edema", "Mass", "Pneumonia"))
    assert found.findings == ["Edema", "Pneumonia"] and found.metrics()["cnr"] == (2.0 - 4.0) / 2
    assert found.metrics()["pointing"] == 0.5 and float(found.shares()["pointing"].mean()) == pytest.approx(0.5)
    by = found.by_finding()
    assert by["Edema"]["phrases"] == 3 and by["Edema"]["cnr"] == 2.0 and by["Pneumonia"]["intervals"] == {}
    low, high = by["Edema"]["intervals"]["cnr"]
    assert low == pytest.approx(2.0) and high == pytest.approx(2.0), "patients a and b both have a mean of 2"
    low, high = found.intervals()["cnr"]
    assert -4 <= low < -1 < high <= 2
    assert GroundingScores(some[:2], ("Edema",)).intervals() == {}


# phrases --------------------------------------------------------------------------------------------------------------


def test_a_phrase_that_denies_is_looked_for_as_its_finding():
    sought = sought_by(["No pleural effusion.", "left pleural effusion", "a strange shadow"], TEMPLATES)
    (denied,), (there,), (free,) = sought.values()
    assert denied.denied and denied.said == DENIED and denied.finding == "Pleural Effusion"
    assert denied.wordings == ("a scan showing pleural effusion.", "there is pleural effusion.")
    assert not there.denied and there.wordings == ("left pleural effusion",) and there.finding == "Pleural Effusion"
    assert free.finding == free.phrase == "a strange shadow" and free.said == ""
    (as_it_is,) = sought_by(["No pleural effusion."], TEMPLATES, read=False)["No pleural effusion."]
    assert not as_it_is.denied and as_it_is.wordings == ("No pleural effusion.",)


def test_several_findings_that_are_denied_are_looked_for_each_and_none_at_all_for_none():
    sought = sought_by(
        ["No pleural effusion or pneumothorax.", "No acute cardiopulmonary process.", "Pneumonia without effusion."],
        TEMPLATES,
    )
    assert [each.finding for each in sought["No pleural effusion or pneumothorax."]] == [
        "Pleural Effusion",
        "Pneumothorax",
    ]
    assert sought["No acute cardiopulmonary process."] == []
    (both,) = sought["Pneumonia without effusion."]
    assert not both.denied and both.finding == "Pneumonia"


def test_a_phrase_is_about_the_finding_that_the_data_name():
    pairs = [("no opacity", "Pneumonia"), ("dense opacity", "Consolidation"), ("No acute findings.", "Edema")]
    sought = sought_about(pairs, TEMPLATES)
    assert sought.keys() == set(pairs[:2]) and sought[pairs[1]].finding == "Consolidation"
    assert sought[pairs[0]].denied and sought[pairs[0]].wordings[1] == "there is pneumonia."
    assert not sought_about(pairs, TEMPLATES, read=False)[pairs[0]].denied


# a fit and its run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """Twelve pictures with a bright place, and their table of phrases."""
    folder, generator = tmp_path_factory.mktemp("radiographs"), np.random.default_rng(0)
    lines = ["image,phrase,finding,x,y,w,h,patient,image_width,image_height"]
    for number in range(12):
        pixels = generator.integers(0, 60, (40, 48), dtype=np.uint8)
        x, y = int(generator.integers(4, 28)), int(generator.integers(2, 24))
        pixels[y : y + 12, x : x + 12] = 250
        Image.fromarray(pixels).save(folder / f"r{number}.png")
        name = ("left opacity", "Pneumonia") if number % 2 else ("moderate edema", "Edema")
        lines.append(f"r{number}.png,{','.join(name)},{x},{y},12,12,p{number // 2},48,40")
    lines.append("r0.png,moderate edema,Edema,0,0,5,5,p0,48,40")
    (folder / "phrases.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def recipe(radiographs, small_clip_spec):
    return {"domain": "medical", "task": "phrase-grounding", "backbone": small_clip_spec, "data": str(radiographs)}


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return vladapt.fit(**recipe, out=str(tmp_path_factory.mktemp("runs")))


def test_the_contract_of_tasks(radiographs):
    images = [radiographs / "r0.png"]
    for _, check in task_checks(task_class("phrase-grounding"), Medical(), images=images, data=str(radiographs)):
        check()


def test_nothing_is_trained_and_everything_is_scored(run):
    metrics = run.metrics
    assert metrics["zero_shot"] is None and metrics["test_phrases"] == 12 and metrics["test_groups"] == 6
    assert metrics["findings"].keys() == {"Edema", "Pneumonia"} and metrics["findings"]["Edema"]["phrases"] == 6
    mean = sum(of["cnr"] for of in metrics["findings"].values()) / 2
    assert metrics["adapted"]["cnr"] == pytest.approx(mean) and metrics["guessing"]["cnr"] == 0
    assert "absolute_cnr" not in metrics["guessing"]  # noise alone has more than 0
    assert 0 < metrics["guessing"]["pointing"] < 0.2 and set(metrics["intervals"]["adapted"]) == set(metrics["adapted"])
    assert "Nothing was trained" in " ".join(run.notes)
    page = (run.run / "report.html").read_text(encoding="utf-8")
    assert "Finding by finding" in page and "Maps with the least contrast" in page and "Guessing" in page
    assert vladapt.evaluate(run.run)["adapted"] == metrics["adapted"]


@pytest.mark.parametrize("option", [{"sigma": 0.0}, {"interpolation": "bilinear"}, {"scale": "unit"}, {"clamp": False}])
def test_every_option_changes_the_scores(recipe, run, option, tmp_path):
    again = vladapt.fit(**recipe, **option, out=str(tmp_path))
    same = {name for name, value in again.metrics["adapted"].items() if run.metrics["adapted"][name] == value}
    assert same < set(run.metrics["adapted"])


def _probability(path, spec, domain):
    """Of a pneumothorax by the image alone: its prompts against those of its absence."""
    backbone = load_backbone(spec)
    image = backbone.encode_image(backbone.preprocess(False)(np.asarray(Image.open(path)))[None])
    texts = [
        [each.replace("{}", "Pneumothorax") for each in some]
        for some in (domain.templates(), domain.negative_templates())
    ]
    there, absent = (torch.nn.functional.normalize(backbone.encode_text(some).mean(dim=0), dim=0) for some in texts)
    return float((backbone.logit_scale * image @ (there - absent)).sigmoid())


def test_a_run_shows_where_a_phrase_is_true(run, recipe, radiographs, tmp_path):
    out, rows = tmp_path / "maps", tmp_path / "rows.csv"
    phrases = ["left opacity", "No pneumothorax.", "No acute findings."]
    found = vladapt.predict(run.run, [str(radiographs / "r1.png")], classes=phrases, out=[out, rows])
    first, second = found.rows()
    assert (first["finding"], first["said"]) == ("Lung Opacity", "") and second["said"] == DENIED
    assert second["finding"] == "Pneumothorax" and 0 < second["probability"] < 1
    assert 4 <= first["x"] < 44 and 0 <= first["y"] < 40, "within the crop"
    assert {Image.open(out / row["picture"]).size for row in (first, second)} == {(48, 40)}
    assert [row["phrase"] for row in csv.DictReader(rows.open())] == phrases[:2]
    assert any(phrase == phrases[2] for phrase, _ in found.skipped)
    alone = _probability(radiographs / "r1.png", recipe["backbone"], Medical(modality="radiology"))
    assert second["probability"] == pytest.approx(alone, rel=1e-4)
    plain = vladapt.predict(run.run, [str(radiographs / "r1.png")], classes=["pneumothorax"]).rows()[0]
    assert plain["probability"] == pytest.approx(second["probability"]), "words do not decide what an image shows"
    with pytest.raises(CapabilityError, match="no phrase to look for"):
        vladapt.predict(run.run, [str(radiographs / "r1.png")])
    with pytest.raises(DataError, match="there is no finding"):
        vladapt.predict(run.run, [str(radiographs / "r1.png")], classes=["No acute findings."])


def test_a_smaller_copy_is_judged_and_another_picture_is_left_out(recipe, radiographs, tmp_path):
    for path in radiographs.glob("*.png"):
        size = (24, 20) if path.stem != "r3" else (24, 24)
        Image.open(path).resize(size).save(tmp_path / path.name)
    (tmp_path / "phrases.csv").write_text((radiographs / "phrases.csv").read_text())
    fitted = vladapt.fit(**{**recipe, "data": str(tmp_path)}, tolerate=0.2, out=str(tmp_path / "runs"))
    assert fitted.metrics["test_phrases"] == 11
    assert any(name == "r3.png" and "is 24 x 24, its boxes are on 48 x 40" in why for name, why in fitted.skipped)


def test_boxes_of_findings_are_phrases(tmp_path, small_clip_spec):
    lines = ["patientId,x,y,width,height,Target"]
    for number in range(6):
        Image.new("L", (32, 32), 30 * number).save(tmp_path / f"q{number}.png")
        lines.append(f"q{number},4,5,10,12,1" if number else "q0,,,,,0")
    (tmp_path / "stage_2_train_labels.csv").write_text("\n".join(lines))
    how = {"domain": "medical", "task": "phrase-grounding", "backbone": small_clip_spec, "data": str(tmp_path)}
    fitted = vladapt.fit(**how, out=str(tmp_path / "runs"))
    assert fitted.metrics["test_phrases"] == 5 and list(fitted.metrics["findings"]) == ["Lung Opacity"]


def test_a_table_without_boxes_is_refused(tmp_path, small_clip_spec):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (32, 32)).save(tmp_path / name / "1.png")
    how = {"domain": "medical", "task": "phrase-grounding", "backbone": small_clip_spec, "data": str(tmp_path)}
    with pytest.raises(DataError, match="no image has a phrase with boxes"):
        vladapt.fit(**how)


@pytest.mark.parametrize(
    ("line", "fault"),
    [("r.png,,1,1,2,2", "no phrase"), ("r.png,x,1,1,0,2", "a box of 0 x 2"), ("r.png,x,1,b,2,2", "are not numbers")],
)
def test_faults_of_a_table_are_told_with_their_line(tmp_path, line, fault):
    Image.new("L", (8, 8)).save(tmp_path / "r.png")
    (tmp_path / "phrases.csv").write_text(f"image,phrase,x,y,w,h\n{line}\n")
    with pytest.raises(DataError, match=rf"phrases.csv line 2: .*{fault}"):
        Medical().read(tmp_path, "phrase-grounding")


# words that look at patches -------------------------------------------------------------------------------------------


def test_a_training_is_scored_before_and_after_and_words_of_gloria_look(recipe, tmp_path):
    trained = {"name": "full", "loss": "gloria", "epochs": 1, "lr": 1e-3, "workers": 0}
    fitted = vladapt.fit(**recipe, adapter=trained, out=str(tmp_path))
    assert fitted.metrics["zero_shot"] and fitted.metrics["exchange"].keys() == {"pointing", "miou"}
    assert fitted.metrics["adapted"]["cnr"] != fitted.metrics["zero_shot"]["cnr"]
    (weights,) = {*fitted.run.glob("*.safetensors")} - {fitted.run / "adapter.safetensors"}
    towers = load_backbone(str(weights))
    patches = torch.randn(9, towers.embed_dim, generator=torch.Generator().manual_seed(0))
    words, own = towers.finder.words_of(towers, "left opacity")
    looked = towers.finder.look(patches, (words, own))
    assert looked.shape == (9,) and float(looked.sum()) == pytest.approx(1, abs=1e-5)
    products = towers.finder.patch_map(patches) @ words.T  # (P, L)
    maps_of_words = (4 * products.softmax(dim=1)).softmax(dim=0).T
    seen = maps_of_words[1:-1] @ towers.finder.patch_map(patches)
    decide = (5 * torch.nn.functional.cosine_similarity(words[1:-1], seen)).softmax(dim=0)
    assert torch.allclose(looked, decide @ maps_of_words[1:-1], atol=1e-6)
    assert own.tolist() == [False, *[True] * (len(own) - 2), False]
    assert vladapt.evaluate(fitted.run)["adapted"] == fitted.metrics["adapted"]
