"""Re-identification from the data to the run: scores, selection on val, care, and what cannot be retrieved."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import vladapt
from vladapt import load_domain
from vladapt.core.contracts.families import OFFERED
from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.contracts.task import Axes
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.runs.folder import Run
from vladapt.core.runtime.progress import Reporter
from vladapt.domains.person import domain as person_domain
from vladapt.domains.person.care import CARD, CONSENT, PeopleHidden
from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians
from vladapt.domains.person.pedestrian import Pedestrian
from vladapt.domains.person.reidentification.fitting import IdentitySource, ReidData, planned_people
from vladapt.domains.person.reidentification.protocol import SearchedSplit
from vladapt.domains.person.tasks.re_identification import ReIdentification, ReidOptions
from vladapt.testing import check_domain, check_task

SMALL = {"identities": 12, "images_per_identity": 4, "cameras": 2, "seed": 0, "size": (24, 12), "val": 3, "test": 4}
SIZE = {"image_size": (24, 16), "pictures": 2, "pad": 1}
TASK = "re-identification"


@pytest.fixture(scope="module")
def small_sample():
    before, person_domain.SAMPLE = person_domain.SAMPLE, SMALL
    yield
    person_domain.SAMPLE = before


@pytest.fixture(scope="module")
def fit(small_sample, small_clip_spec, tmp_path_factory):
    def fitted(**given):
        out = tmp_path_factory.mktemp("runs")
        common = {"domain": "person", "task": TASK, "backbone": small_clip_spec, "out": str(out), "device": "cpu"}
        return vladapt.fit(**{**common, **SIZE, **given})

    return fitted


@pytest.fixture(scope="module")
def trained(fit):
    adapter = {"name": "full", "epochs": 3, "batch_size": 8, "lr": 3e-3, "select": "best_val"}
    return fit(adapter=adapter, rerank=True, rerank_k1=4, rerank_k2=2)


@pytest.fixture(scope="module")
def frozen(fit):
    return fit(adapter={"name": "zero-shot"}, show_people=True)


def test_a_run_says_how_well_it_finds_people(trained):
    metrics = json.loads((trained.run / "metrics.json").read_text())
    assert set(metrics["adapted"]) == {"r1", "r5", "r10", "map", "minp", "map_trapezoid"}
    assert (metrics["test_images"], metrics["test_queries"], metrics["test_identities"]) == (16, 8, 4)
    assert set(metrics["by_camera"]["adapted"]) == {"c1", "c2"}
    queries = [row["queries"] for row in metrics["by_camera"]["adapted"].values()]
    assert sum(queries) == 8 and metrics["reranked"] != metrics["adapted"] and "k1 4, k2 2" in metrics["reranking"]
    for when in ("zero_shot", "adapted", "reranked"):
        for name, value in metrics[when].items():
            low, high = metrics["intervals"][when][name]
            assert low - 1e-9 <= value <= high + 1e-9
    shown = ReIdentification().table(metrics)
    assert [column.header for column in shown.columns] == ["", "before", "after", "re-ranked"]
    assert "re-ranked by k-reciprocal neighbours" in shown.caption and "mAP changed by" in trained.task.verdict(metrics)


def test_nothing_is_after_a_training_where_there_was_none(trained, frozen):
    after, alone = ((done.run / "report.html").read_text() for done in (trained, frozen))
    assert ">Before<" in after and ">After<" in after
    assert ">Features<" in alone and ">Before<" not in alone and ">After<" not in alone


def test_the_epoch_is_chosen_on_val_with_its_neck(trained):
    chosen, history = trained.report.chosen["epoch"], trained.report.history
    assert trained.report.val_score == max(row["val"] for row in history) == history[chosen - 1]["val"]
    again = vladapt.evaluate(trained.run, split="val", device="cpu")
    assert again["adapted"]["map"] == pytest.approx(trained.report.val_score, abs=1e-6)
    assert "what the loss 'bot' makes" in again["compared_by"]


def test_eval_scores_a_run_as_its_fit_did(trained, frozen):
    for done in (trained, frozen):
        again = vladapt.evaluate(done.run, device="cpu")
        for when in ("zero_shot", "adapted", "reranked"):
            assert again[when] == pytest.approx(done.metrics[when], abs=1e-6) if done.metrics[when] else not again[when]
    assert frozen.metrics["zero_shot"] is None
    assert frozen.metrics["adapted"] == pytest.approx(trained.metrics["zero_shot"], abs=1e-6)


def test_other_people_are_scored_whole(trained, tmp_path):
    drawn = drawn_pedestrians(3, 4, 2, 5, (24, 12), val=0, test=0)
    for item in drawn.items:
        who = tmp_path / "others" / item.target.identity
        who.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.load(item)).save(who / f"{item.target.camera}_{len(list(who.iterdir()))}.png")
    out = tmp_path / "scored"
    again = vladapt.evaluate(trained.run, data=str(tmp_path / "others"), device="cpu", out=str(out))
    assert (again["test_images"], again["test_identities"], again["in_fit"]) == (12, 3, 0)
    page = (out / "report.html").read_text()
    assert "By camera" in page and "person-00000" not in page and CONSENT[0] in page


def test_reports_hide_people_unless_asked_for(trained, frozen):
    hidden, shown = ((done.run / "report.html").read_text() for done in (trained, frozen))
    names = [item.id for item in drawn_pedestrians(**SMALL).items]
    written = [path.read_text() for path in trained.run.iterdir() if path.suffix in (".html", ".json", ".txt", ".md")]
    assert not any(name in text for name in names for text in written)
    assert "What pictures find" in shown and "What pictures find" not in hidden and "query: person-" in shown
    for sentence in CONSENT:
        assert sentence in hidden
    card, other = ((done.run / CARD).read_text() for done in (trained, frozen))
    assert "Trained on: 8 identities in 32 pictures of 2 cameras of drawn-pedestrians" in card
    assert "Nothing was trained here" in other and all(sentence in card for sentence in CONSENT)


def test_names_of_people_become_numbers(small_sample):
    data = load_domain("person").sample(TASK)
    hidden, name = PeopleHidden.of(data, [("bad.png", "empty")]), data.items[1].id
    assert hidden.name(name) == "sample 2" and hidden.pairs([("bad.png", "empty")]) == [
        ["unreadable sample 1", "empty"]
    ]
    told = {"recipe": {"data": {"path": "people.csv"}}, "data": {"name": "x"}, "notes": [f"see {name}"]}
    info = hidden.info(RunInfo.from_json(told))
    assert info["recipe"]["data"]["path"] == "people.csv" and info["notes"] == ["see sample 2"]


def test_a_run_is_a_backbone_and_names_nobody(trained, frozen):
    towers = vladapt.load_backbone(str(trained.run / "model.safetensors"), device="cpu")
    assert towers.image_size == (24, 16) and towers.finder.name == "bot"
    with pytest.raises(CapabilityError, match="names nobody; find people with it: vladapt index"):
        vladapt.predict(trained.run, ["x.png"], device="cpu")
    assert Run.open(frozen.run).info["adapter"] == "zero-shot"


def test_methods_are_compared(small_sample, small_clip_spec):
    task, adapters = ReIdentification(load_domain("person")), {"full": {"epochs": 1, "batch_size": 8, "lr": 1e-2}}
    flags = {
        "domain": "person",
        "task": TASK,
        "backbone": small_clip_spec,
        "device": "cpu",
        "adapters": adapters,
        **SIZE,
    }
    recipe, axes = task.settled(resolve(flags=flags)), Axes(adapters=("full",), seeds=(1,))
    entries = task.entries(recipe, axes)
    contest = task.contest(recipe, axes, Reporter(quiet=True))
    scores = [contest.score(entry)["map"] for entry in entries]
    assert [entry["adapter"] for entry in entries] == ["zero-shot", "full"] and len(set(scores)) == 2


def people(*rows: tuple[str | None, str, str]):
    """(identity, camera, role) of each picture."""
    items = drawn_pedestrians(len(rows), 1, 1, 0, (8, 4), val=0, test=0).items
    made = [
        item.with_(target=Pedestrian(who, camera, role=role), split="test")
        for item, (who, camera, role) in zip(items, rows)
    ]
    return made


def test_queries_and_gallery():
    rows = [
        ("a", "1", "query"),
        ("a", "2", "gallery"),
        (None, "1", "gallery"),
        ("b", "1", "query"),
        ("b", "1", "gallery"),
    ]
    given = SearchedSplit.of(people(*rows), True, "set")
    assert given.queries == (0, 3) and given.gallery == (1, 2, 4) and not given.drawn
    assert given.sought.answerable.tolist() == [True, False]
    free = SearchedSplit.of(people(*rows), False, "set")
    assert free.sought.answerable.tolist() == [True, True]
    drawn = SearchedSplit.of(
        people(*[(who, camera, "") for who in "ab" for camera in "112"], (None, "1", "")), True, "set"
    )
    assert drawn.drawn and len(drawn.queries) == 4 and drawn.gallery == tuple(range(7))
    assert {(drawn.identities[q], drawn.cameras[q]) for q in drawn.queries} == {(0, "1"), (0, "2"), (1, "1"), (1, "2")}
    fewer = drawn.only([0, 2, 5])
    assert len(fewer.items) == 3 and all(
        fewer.items[q] in [drawn.items[p] for p in drawn.queries] for q in fewer.queries
    )


def test_each_option_changes_what_is_done(small_sample, small_clip):
    data, base = load_domain("person").sample(TASK), {**vars(ReidOptions()), "rerank": True}
    others = {
        "camera_rule": False,
        "rerank": False,
        "rerank_k1": 3,
        "rerank_k2": 2,
        "rerank_weight": 0.5,
        "pictures": 2,
    }
    others |= {"sampler": "balanced", "flip_probability": 0.1, "pad": 2, "erasing": 0.2, "erasing_fill": "released"}
    assert {*others, "show_people", "last_stride"} == set(base)  # which the reports show; of a ResNet: below

    def done(options):
        people = ReidData(data, options)
        source = IdentitySource.of(data, "train")
        batches = planned_people(people, source, 8, seed=1).rows(0)
        return people.transform(small_clip, True).spec, people.reranking, batches, people.protocol("test").queries

    assert [name for name, value in others.items() if done({**base, name: value}) == done(base)] == []


def test_a_resnets_last_stride_is_that_of_the_run_and_of_its_towers(fit, tmp_path):
    tiny = {"embed_dim": 24, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
    (tmp_path / "tiny.json").write_text(json.dumps(tiny))
    adapter = {"name": "full", "epochs": 1, "batch_size": 16, "select": "last"}
    spec = f"open_clip:{tmp_path / 'tiny.json'}@random:1"
    done = fit(backbone=spec, image_size=(64, 32), adapter=adapter, last_stride=1)
    towers = vladapt.load_backbone(str(done.run / "model.safetensors"), device="cpu")
    assert towers.feature_maps(torch.zeros(1, 3, 64, 32))[-1].shape[-2:] == (4, 2)  # else (2, 1)
    assert vladapt.evaluate(done.run, device="cpu")["adapted"] == pytest.approx(done.metrics["adapted"], abs=1e-6)
    with pytest.raises(CapabilityError):
        fit(adapter={"name": "zero-shot"}, last_stride=1)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", "1", ""), ("a", "", "")], "1 of 2 pictures do not name their camera"),
        ([("a", "1", ""), ("a", "1", "")], "one camera: nothing to retrieve under the rule"),
        ([("a", "1", ""), ("b", "2", "")], "one image per identity: nothing to retrieve"),
        ([(None, "1", ""), (None, "2", "")], "no picture names its person"),
        ([("a", "1", ""), ("a", "1", ""), ("b", "2", "")], "under the camera rule; give people seen by two"),
    ],
)
def test_what_cannot_be_retrieved_is_told_in_one_line(rows, words):
    with pytest.raises(DataError, match=words):
        SearchedSplit.of(people(*rows), True, "set")


def test_one_camera_of_the_real_set(fit, data_dir):
    data = str(data_dir / "person" / "intel_oneperson_reid")
    with pytest.raises(DataError, match="one camera: nothing to retrieve under the rule"):
        fit(adapter={"name": "zero-shot"}, data={"path": data})
    done = fit(adapter={"name": "zero-shot"}, data={"path": data}, camera_rule=False)
    assert done.metrics["test_queries"] == done.metrics["test_images"] == 72  # nothing trains: all are searched
    again = vladapt.evaluate(done.run, device="cpu")
    assert again["adapted"] == pytest.approx(done.metrics["adapted"], abs=1e-6)


def test_wrong_choices_are_told_before_anything_is_read(fit):
    with pytest.raises(CapabilityError, match="adapter 'tip-adapter' trains no towers"):
        fit(adapter={"name": "tip-adapter"})
    with pytest.raises(ConfigError, match="--shots 4: counts images per class"):
        fit(shots=4)
    with pytest.raises(ConfigError, match="option sampler=dice"):
        fit(sampler="dice")
    with pytest.raises(DataError, match="not a multiple of the 3 pictures of each person"):
        fit(adapter={"name": "full", "batch_size": 8}, pictures=3)


def test_the_contracts(small_sample, small_clip_spec):
    assert check_domain(load_domain("person"), raises=False) == []
    adapter = {"name": "full", "epochs": 1, "batch_size": 8, "lr": 1e-3}
    keys = {"backbone": small_clip_spec, "adapter": adapter, **SIZE}
    assert check_task(ReIdentification, load_domain("person"), raises=False, **keys) == []


def test_an_older_run_or_recipe_names_the_flip_as_before():
    flags = {"domain": "person", "task": TASK, "data": "sample"}
    settled = task_of(resolve(flags=flags)).settled(resolve(flags=flags).with_(task_options={"flip": 0.2}))
    assert settled.task_options["flip_probability"] == 0.2 and "flip" not in settled.task_options


def test_the_published_recipe_resolves():
    recipe = resolve(recipe="person/bot")
    settled = task_of(recipe, None).settled(recipe)
    assert settled.image_size == (256, 128) and settled.adapter["training"]["milestones"] == [40, 70]


def test_a_module_of_ones_own_is_trained_and_given_again(fit):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 4, 4), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    backbone = vladapt.Backbone.from_module(module, image_size=(24, 16), embed_dim=64)
    adapter = {"name": "full", "loss": "bot", "epochs": 1, "batch_size": 8}
    trained = fit(backbone=backbone, adapter=adapter, sampler="random-identity")
    OFFERED.clear()  # another process
    with pytest.raises(CapabilityError):
        vladapt.evaluate(trained.run)
    again = vladapt.evaluate(trained.run, backbone=backbone)
    assert again["adapted"]["map"] == pytest.approx(trained.metrics["adapted"]["map"], abs=1e-4)
    OFFERED.clear()
