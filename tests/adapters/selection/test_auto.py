from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vladapt.adapters.selection import auto
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.features.files import load_features
from vladapt.core.metrics.classification import row_weights
from vladapt.core.registry import build_adapter, load_adapter

SOME = ("nearest-mean", "zero-shot", "ridge")


def fitted(task, *, val=True, **options):
    adapter = build_adapter("auto", **{"candidates": SOME, **options})
    adapter.report = adapter.fit(task.support, task.text, val=task.val if val else None)
    return adapter


def out_of_fold(task, name, parts=5, seed=0):
    """(n,) 1 where a method is right on a part that it did not see, with the settings of its fit on all; (n,) rows."""
    whole = build_adapter(name)
    settings = whole.settled(whole.fit(task.support, task.text, val=task.val, seed=seed))
    right, rows = [], []
    for held in task.support.folds(parts, seed):
        rest = torch.tensor([i for i in range(len(task.support)) if i not in held.tolist()])
        again = build_adapter(name, **settings)
        again.fit(task.support.select(rest), task.text, val=task.val, seed=seed)
        seen = task.support.select(held)
        right.append((again.logits(seen).argmax(dim=1) == seen.labels).double())
        rows.append(held)
    return torch.cat(right), torch.cat(rows)


@pytest.mark.parametrize("shots", [5, 8, [4, 9, 5, 16, 6]], ids=str)
def test_scores_are_those_of_a_cross_validation_written_out(make_task, shots):
    task = make_task(shots=shots, noise=1.5)
    for row in fitted(task).report.judged:
        right, rows = out_of_fold(task, row["method"])
        weights = row_weights(task.support.labels[rows])
        weights = torch.ones_like(right) if weights is None else weights
        mean = (weights * right).mean()
        off = weights * (right - mean)
        error = (off.square().sum() / (len(right) - 1) / len(right)).sqrt()
        assert row["score"] == pytest.approx(float(mean), abs=1e-12)
        assert row["error"] == pytest.approx(float(error), abs=1e-12)
        assert row["metric"] == ("accuracy" if isinstance(shots, int) else "balanced accuracy")


def out_of_fold_answers(task, name, parts):
    """(n,) whether a method is right on parts that it did not see, and (n,) the log-probability of the right class."""
    whole = build_adapter(name)
    settings = whole.settled(whole.fit(task.support, task.text, val=task.val))
    right, likelihood = [], []
    for held in parts:
        rest = torch.tensor([i for i in range(len(task.support)) if i not in held.tolist()])
        again = build_adapter(name, **settings)
        again.fit(task.support.select(rest), task.text, val=task.val)
        seen = task.support.select(held)
        logits = again.logits(seen).double()
        right.append((logits.argmax(dim=1) == seen.labels).double())
        likelihood.append(logits.log_softmax(dim=1)[torch.arange(len(held)), seen.labels].clamp_min(-10))
    return torch.cat(right), torch.cat(likelihood)


def mean_over_error(difference):
    return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


@pytest.mark.parametrize("noise", [0.6, 1.5, 3.0])
@pytest.mark.parametrize("text_noise", [0.3, 2.0])
@pytest.mark.parametrize("order", [SOME, SOME[::-1]], ids=str)
def test_what_beats_zero_shot_by_two_standard_errors_and_is_first_near_the_best_is_taken(
    make_task, noise, text_noise, order
):
    task = make_task(shots=6, noise=noise, text_noise=text_noise)
    adapter, parts = fitted(task, candidates=order), task.support.folds(5, 0)
    answers = {name: out_of_fold_answers(task, name, parts) for name in order}
    right, likelihood = answers["zero-shot"]
    better = []
    for name in order:
        tests = [mean_over_error(answers[name][i] - of) for i, of in enumerate((right, likelihood))]
        if tests[0][0] > 1e-9 and any(gain > 2 * error + 1e-9 for gain, error in tests):
            better.append(name)
    expected = "zero-shot"
    if better:
        best = max(better, key=lambda name: float(answers[name][0].mean()))
        near = [mean_over_error(answers[best][0] - answers[name][0]) for name in better]
        expected = next(name for name, (gain, error) in zip(better, near) if gain <= error + 1e-9)
    assert adapter.report.chosen["method"] == expected
    assert [row["method"] for row in adapter.report.judged if row["taken"]] == [expected]


def test_without_zero_shot_the_first_within_one_standard_error_of_the_best_is_taken(make_task):
    task, order = make_task(shots=6, noise=1.5), ("nearest-mean", "ridge")
    answers = {name: out_of_fold_answers(task, name, task.support.folds(5, 0))[0] for name in order}
    gain, error = mean_over_error(answers["ridge"] - answers["nearest-mean"])
    assert fitted(task, candidates=order).report.chosen["method"] == order[int(gain > error + 1e-9)]


def test_many_more_right_answers_show_it_whatever_the_likelihood():
    """Of 40 images 30 in place of 10, by logits that are far too large."""
    labels = torch.arange(4).repeat(10)
    right, rows = torch.nn.functional.one_hot(labels, 4).float(), FeatureSet(torch.zeros(40, 2), labels)
    some = torch.where((torch.arange(40) < 10)[:, None], right, right.roll(1, dims=1))
    most = torch.where((torch.arange(40) < 30)[:, None], right, right.roll(1, dims=1))
    unsure, sure = auto._of_answers(0.1 * some, rows), auto._of_answers(100 * most, rows)
    assert sure.likelihood.mean() < unsure.likelihood.mean() and sure.shown_better(unsure)
    assert not unsure.shown_better(sure)


def test_the_reason_counts_no_method_as_worse_that_scored_higher():
    """Of methods that are not shown to beat zero-shot, one may have scored higher than the one that is taken."""

    def score(right):
        values = torch.tensor([1.0] * right + [0.0] * (20 - right), dtype=torch.float64)
        return auto._Score("accuracy", values, values, torch.ones(20), torch.arange(20))

    scores = {"zero-shot": score(8), "gda": score(18)}
    assert auto._why("gda", scores, auto.ONE_SE).endswith("which it is shown to beat), and no other does better")
    two_patients = (torch.arange(20) >= 8).long()
    unsure = replace(score(19), values=score(19).values.flip(0), likelihood=score(0).likelihood, unit=two_patients)
    assert unsure.mean > scores["gda"].mean and not unsure.shown_better(scores["zero-shot"])
    said = auto._why("gda", {**scores, "ape": unsure}, auto.ONE_SE)
    assert said.endswith("and no other that is shown to beat zero-shot does better")


@pytest.mark.parametrize("shots", [1, 2, 3, 4, 6])
def test_undecided_is_zero_shot_at_every_number_of_shots(make_task, shots):
    """Texts that are right: whatever is as accurate is not shown to be better."""
    report = fitted(make_task(shots=shots, text_noise=0.1), candidates=("zero-shot", "proker", "ridge")).report
    assert report.chosen["method"] == "zero-shot"
    assert report.notes[0].endswith("and no other is shown to be better")
    assert {row["method"] for row in report.judged} >= {"zero-shot", "proker"}


def test_where_labels_mean_nothing_zero_shot_is_kept(make_task):
    task = make_task(shots=8, text_noise=0.3)
    labels = task.support.labels[torch.randperm(len(task.support), generator=torch.Generator().manual_seed(0))]
    shuffled = replace(task, support=replace(task.support, labels=labels))
    chosen = fitted(shuffled, val=False, candidates=("zero-shot", "ridge")).report.chosen["method"]
    assert chosen == "zero-shot"


def test_a_higher_likelihood_with_as_many_right_answers_shows_nothing():
    """Surer texts with the same answers: the scale of logits alone tells nothing of accuracy."""
    labels = torch.arange(4).repeat(10)
    logits = 3 * torch.nn.functional.one_hot(labels, 4) + torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    logits[:10] = logits[:10].roll(1, dims=1)
    rows = FeatureSet(torch.zeros(40, 2), labels)
    sure, less_sure = auto._of_answers(20 * logits, rows), auto._of_answers(logits, rows)
    assert less_sure.likelihood.mean() > sure.likelihood.mean() + 1 and not less_sure.shown_better(sure)


def test_two_images_per_class_show_what_is_much_better(make_task):
    """24 classes that lie apart, and texts of which many are wrong."""
    task = make_task(classes=24, dim=64, shots=2, noise=0.3, text_noise=3.0)
    assert fitted(task, val=False, candidates=("zero-shot", "proker", "ridge")).report.chosen["method"] != "zero-shot"


@pytest.mark.parametrize(
    ("file", "taken"), [("whurs19_clip/whurs19_CLIP_ViTB32", "proker"), ("coco500_clip/coco8_vitb16", "zero-shot")]
)
def test_one_real_image_per_class_shows_a_large_gain_and_only_that(data_dir, file, taken):
    """ProKeR gains 6 points on the scenes, and loses one on the photographs."""
    read = load_features(data_dir / "features" / f"{file}.npz")
    labels = read.features.labels
    first = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    adapter = build_adapter("auto")
    assert adapter.fit(read.features.select(first), read.classifier).chosen["method"] == taken


def test_one_image_per_class_is_judged_image_by_image(make_task):
    task = make_task(shots=1, noise=1.0)
    report = fitted(task).report
    assert report.chosen_on.startswith("each image or group held out, 5 images judged")
    rows = {row["method"]: row["score"] for row in report.judged}
    whole = build_adapter("proker")
    settings, right = whole.settled(whole.fit(task.support, task.text, val=task.val)), []
    for held in range(5):
        again = build_adapter("proker", **settings)
        again.fit(task.support.select([row for row in range(5) if row != held]), task.text, val=task.val)
        right.append(float(again.logits(task.support.select([held])).argmax() == task.support.labels[held]))
    assert rows["proker"] == pytest.approx(sum(right) / 5, abs=1e-12)


def test_the_best_one_is_taken_where_that_is_asked_for(make_task):
    task, two = make_task(shots=6, noise=2.5), ("nearest-mean", "ridge")
    first, best = fitted(task, candidates=two), fitted(task, candidates=two, rule="best")
    highest = max(best.report.judged, key=lambda row: row["score"])
    assert best.report.chosen["method"] == highest["method"]
    assert best.report.chosen["method"] == "ridge" and first.report.chosen["method"] == "nearest-mean"


def test_a_method_that_must_lose_is_never_taken(make_task):
    task = make_task(shots=8, noise=0.5)
    wrong = replace(task.text, weights=task.text.weights.roll(1, dims=0))
    task = replace(task, text=wrong)
    assert fitted(task, candidates=("zero-shot", "ridge")).report.chosen["method"] == "ridge"


def test_logits_are_those_of_the_method_that_was_taken(make_task):
    task = make_task(shots=6)
    adapter = fitted(task, candidates=("ridge",))
    alone = build_adapter("ridge")
    report = alone.fit(task.support, task.text, val=task.val)
    torch.testing.assert_close(adapter.logits(task.test), alone.logits(task.test), rtol=0, atol=0)
    assert adapter.report.chosen == {"method": "ridge", **report.chosen}
    assert adapter.report.val_score == report.val_score


@pytest.mark.parametrize("shots", [1, 3, [1, 2, 9, 3, 2]], ids=str)
def test_few_images_judge_nothing_where_zero_shot_is_no_candidate(make_task, shots):
    adapter = fitted(make_task(shots=shots), few_shots=("nearest-mean", "ridge"))
    assert adapter.report.chosen["method"] == "nearest-mean"
    assert not adapter.report.judged
    assert "fewer than 4 images per class" in adapter.report.chosen_on


@pytest.mark.parametrize("few_shots", [("proker", "ridge"), ("zero-shot", "proker")])
def test_a_single_group_per_class_is_held_out_whole(make_task, few_shots):
    task = make_task(shots=6)
    groups = tuple(f"patient {label}" for label in task.support.labels.tolist())
    grouped = replace(task, support=replace(task.support, groups=groups))
    report = fitted(grouped, few_shots=few_shots).report
    assert "fewer than" not in " ".join(report.notes)
    if few_shots[0] == "proker":
        assert report.chosen["method"] == "proker" and "come from one group" in report.chosen_on
    else:
        assert "each image or group held out, 30 images judged" in report.chosen_on


def test_images_of_one_group_are_never_on_both_sides(make_task):
    task = make_task(shots=4, noise=6.0)  # nothing to learn, but for copies
    copies = task.support.select(torch.arange(len(task.support)).repeat_interleave(2))
    groups = tuple(str(i // 2) for i in range(len(copies)))
    alone = fitted(replace(task, support=copies), val=False, candidates=("ridge", "nearest-mean")).report.judged
    grouped = fitted(
        replace(task, support=replace(copies, groups=groups)), val=False, candidates=("ridge", "nearest-mean")
    ).report.judged
    assert alone[0]["score"] > grouped[0]["score"] + 0.2


def test_several_labels_are_judged_by_auroc(make_multilabel_task):
    task = make_multilabel_task(images=60)
    adapter = fitted(task, candidates=("gda", "ridge", "zero-shot"))
    assert [row["method"] for row in adapter.report.judged] == ["ridge", "zero-shot"]
    assert {row["metric"] for row in adapter.report.judged} == {"macro AUROC"}
    ridge, zero_shot = adapter.report.judged
    assert ridge["score"] == 1 and ridge["error"] == 0  # sums of centres are linear
    assert 0.5 < zero_shot["score"] < 1 and zero_shot["error"] > 0
    assert "left out: gda (one label per image)" in adapter.report.notes
    assert adapter.logits(task.test).shape == (len(task.test), 5)


def test_without_texts_only_methods_that_read_none_are_tried(make_task):
    task = make_task(shots=6)
    texts = TextClassifier.without_texts(task.support.class_names, task.support.dim)
    adapter = fitted(replace(task, text=texts), candidates=("zero-shot", "ape", "ridge"))
    assert adapter.report.chosen["method"] == "ridge"
    assert "left out: zero-shot, ape (no class texts)" in adapter.report.notes


def test_what_would_take_long_is_left_out(make_task, monkeypatch):
    task = make_task(shots=6)
    monkeypatch.setitem(auto.LARGEST, "ridge", 149)
    adapter = fitted(task)
    assert "left out: ridge (30 images of 5 classes would take long)" in adapter.report.notes
    assert "ridge" not in [row["method"] for row in adapter.report.judged]


def test_a_thousand_classes_of_16_images_leave_methods_of_several_kinds():
    names = [f"class {number}" for number in range(1000)]
    labels = torch.arange(1000).repeat_interleave(16)
    support = FeatureSet(torch.randn(16_000, 2), labels=labels, class_names=names)
    trial = auto._Trial(support, TextClassifier(torch.randn(1000, 2), class_names=names), None, 0, build_adapter)
    tried = {name for name in auto.CANDIDATES if not trial._hindrance(build_adapter(name))}
    assert tried == {"gda", "ridge", "zero-shot", "nearest-mean", "tip-adapter"}


def test_no_more_parts_are_judged_than_are_enough(make_task, monkeypatch):
    task = make_task(shots=10)
    monkeypatch.setattr(auto, "ENOUGH_JUDGED", 15)
    assert "20 images judged" in fitted(task).report.chosen_on  # two parts of ten


def test_a_second_fit_does_what_the_first_ended_with(make_task):
    task = make_task(shots=6, noise=2.0)
    adapter = fitted(task)
    again = build_adapter("auto", **adapter.settled(adapter.report))
    report = again.fit(task.support, task.text, val=None)
    assert not report.judged
    torch.testing.assert_close(again.logits(task.test), adapter.logits(task.test))
    fresh = build_adapter("auto", **adapter.repeated())
    assert fresh.fit(task.support, task.text, val=task.val).chosen == adapter.report.chosen


@pytest.mark.parametrize("name", auto.CANDIDATES)
def test_a_second_fit_has_the_settings_that_the_method_itself_ends_with(make_task, name):
    task = make_task(shots=6, noise=1.5)
    adapter, alone = fitted(task, candidates=(name,)), build_adapter(name)
    report = alone.fit(task.support, task.text, val=task.val)
    expected = {**alone.options, **alone.settled(report)}
    assert adapter.settled(adapter.report)["settings"] == {name: expected}


def test_settings_are_those_of_a_candidate(make_task):
    task = make_task(shots=6)
    adapter = fitted(task, candidates=("ridge",), settings={"ridge": {"penalty": 7.0}})
    assert adapter.report.chosen["penalty"] == 7.0


def test_the_saved_file_is_read_in_full_and_no_other_method_is_built_from_it(make_task, tmp_path):
    task = make_task(shots=6)
    adapter = fitted(task)
    path = adapter.save(tmp_path / "adapter.safetensors")
    torch.testing.assert_close(load_adapter(path).logits(task.test), adapter.logits(task.test), rtol=0, atol=0)
    header, _ = read_adapter_file(path)
    assert header["scalars"]["method"] == adapter.method
    adapter.method = "transclip"
    with pytest.raises((ConfigError, DataError), match="transclip"):
        load_adapter(adapter.save(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": ("lora",)}, "lora needs .*pixels"),
        ({"candidates": ("transclip",)}, "transclip needs"),
        ({"few_shots": ("coop",)}, "coop needs .*text encoder"),
        ({"candidates": ("auto",)}, "auto needs more"),
        ({"candidates": ("rigde",)}, "did you mean ridge"),
        ({"candidates": ()}, "one method in candidates"),
        ({"settings": {"ape": {"alpha": 1}}}, "ape is no candidate"),
        ({"settings": {"ridge": {"penalti": 1}}}, "did you mean penalty"),
        ({"settings": {"ridge": 3}}, "give its options"),
    ],
)
def test_what_it_cannot_choose_among_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        build_adapter("auto", **{"candidates": SOME, **options})


def test_no_candidate_at_all_is_one_line(make_multilabel_task):
    with pytest.raises(CapabilityError, match=r"no candidate can be fitted: gda \(one label per image\)"):
        fitted(make_multilabel_task(images=60), candidates=("gda",))


@pytest.mark.thorough
def test_the_default_takes_part_in_a_thousand_classes():
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(1000, 32, generator=generator), dim=1)
    labels = torch.arange(1000).repeat_interleave(4)
    rows = centres[labels] + 0.05 * torch.randn(4000, 32, generator=generator)
    names = tuple(map(str, range(1000)))
    adapter = build_adapter(
        "auto", settings={"tip-adapter": {"search_step": (40, 10)}}
    )  # of 1,000 classes a long search
    report = adapter.fit(FeatureSet(rows, labels, names), TextClassifier(centres, class_names=names))
    assert {row["method"] for row in report.judged} >= {"zero-shot", "gda", "ridge"}
    assert float((adapter.logits(FeatureSet(rows, labels, names)).argmax(dim=1) == labels).double().mean()) > 0.95


def test_candidates_have_the_options_of_papers_where_that_is_asked_for(make_task):
    task, few = make_task(shots=2, noise=1.5), {"few_shots": ("proker",)}
    ours, papers = fitted(task, **few), fitted(task, **few, as_papers=True)
    assert (ours.method_options["ties"], papers.method_options["ties"]) == ("plateau", "published")
    assert (ours.method_options["class_weight"], papers.method_options["class_weight"]) == ("balanced", "none")
    given = fitted(task, **few, as_papers=True, settings={"proker": {"ties": "plateau"}})
    assert given.method_options["ties"] == "plateau"
    alone = build_adapter("proker", ties="published", class_weight="none", most_rows=0)
    alone.fit(task.support, task.text, val=task.val)
    torch.testing.assert_close(papers.logits(task.test), alone.logits(task.test))
