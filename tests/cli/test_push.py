"""`push`: what is written, what is not told, what is refused; and runs of the hub, used by their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from vladapt.core.runs import Run
from vladapt.core.runtime.reading import sha256_of

hub = pytest.importorskip("huggingface_hub", reason="extra sharing is not installed")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ME = "Annabel_Meyerhof"


def everything_in(folder: Path) -> str:
    return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in folder.iterdir())


def changed(run: Path, change) -> None:
    """run.json, changed."""
    info = json.loads((run / "run.json").read_text())
    change(info)
    (run / "run.json").write_text(json.dumps(info))


@pytest.fixture
def spec(run) -> str:
    return json.loads((run / "run.json").read_text())["backbone"]["spec"]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache, and no network."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def on_the_hub(vladapt, run, cache) -> str:
    """The run, pushed, and in the cache as the hub's client lays it there; its name."""
    assert vladapt("push", run, "me/colours").code == 0
    there = cache / "models--me--colours"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text(COMMIT)
    shutil.copytree("colours", there / "snapshots" / COMMIT)
    return "hf:me/colours"


def test_a_folder_as_the_hub_has_it(vladapt, run):
    outcome = vladapt("push", run, "me/colours", "--licence", "apache-2.0", "--dataset", "me/paints", "--json")
    assert outcome.code == 0, outcome.err
    files = ["README.md", "adapter.safetensors", "calibration.safetensors", "linear-probe.safetensors"]
    assert outcome.json["files"] == [*files, "metrics.json", "run.json"]
    card = hub.ModelCard.load("colours/README.md")
    metrics = json.loads((run / "metrics.json").read_text())
    assert card.data.pipeline_tag == "image-classification" and card.data.library_name == "vladapt"
    assert card.data.license == "apache-2.0" and card.data.datasets == ["me/paints"]
    accuracy = next(each for each in card.data.eval_results if each.metric_type == "accuracy")
    low, high = metrics["metric_intervals"]["adapted"]["accuracy"]
    assert accuracy.metric_value == pytest.approx(metrics["adapted"]["accuracy"], abs=1e-4)
    assert accuracy.metric_name == f"Accuracy (95 % interval {low:.4f} to {high:.4f})"
    for words in ("zero-shot | largest class | linear probe | this model | 95 % interval", "Not to be used for"):
        assert words in card.text
    assert "not a medical device" in card.text and "hf:me/colours" in card.text and "red, green" not in card.text
    assert "pip install vladapt" not in card.text, "no public index has it, and anybody could take the name there"
    assert "The licence of the backbone and of the data is not known" in card.text


def test_nothing_is_told_of_images_places_and_people(vladapt, run, monkeypatch, tmp_path):
    monkeypatch.setattr("getpass.getuser", lambda: ME)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "annabel"))

    def plant(info):
        info["notes"] += [
            "A copy of red/Schmidt_Bernd.png was left out; see /srv/scans/ward 7, ~/x and C:\\scans\\b.",
            f"Asked for by {ME}.",
        ]
        info["splits"]["test"][0] = "red/Schmidt_Bernd"
        info["skipped"] = [["blue/Kaputt_Karl.png", f"{tmp_path}/home/annabel/blue/Kaputt_Karl.png: no image"]]
        info["recipe"]["descriptions"] = "/srv/secret/texts.json"
        info["data"]["name"] = "Clinic_North"

    changed(run, plant)
    assert vladapt("push", run, "me/colours").code == 0
    told = everything_in(Path("colours"))
    ids = [name for split in json.loads((run / "run.json").read_text())["splits"].values() for name in split]
    secret = ["Schmidt", "Kaputt", "Clinic_North", ME, "annabel", "/srv", "scans", str(tmp_path), *ids]
    assert not [word for word in secret if word in told]
    assert "digests" not in told and "was left out" in told  # the note itself stays


def test_words_in_the_head_of_a_file_of_tensors_are_cleaned(vladapt, run, without_digests):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = run / "adapter.safetensors"
    with safe_open(str(path), framework="pt") as file:
        head = json.loads(file.metadata()["vladapt"])
    head["scalars"]["learned_from"] = "/srv/scans/Schmidt_Bernd.png"
    tensors = load_file(path)
    save_file(tensors, str(path), metadata={"vladapt": json.dumps(head)})
    without_digests(run)
    assert vladapt("push", run, "me/colours").code == 0
    assert Run.open("colours").info.sha256["adapter.safetensors"] == sha256_of("colours/adapter.safetensors")
    assert "Schmidt" not in everything_in(Path("colours"))
    copied = load_file("colours/adapter.safetensors")
    assert copied.keys() == tensors.keys() and all(copied[name].equal(tensors[name]) for name in tensors)


@pytest.mark.parametrize("adapter, refused", [("full", True), ("lora", False), ("tip-adapter", False)])
def test_weights_under_a_non_commercial_licence_are_named(vladapt, run, adapter, refused):
    def of_a_study(info):
        info["adapter"] = adapter
        info["backbone"]["licence"] = "cc-by-nc-4.0"

    changed(run, of_a_study)
    outcome = vladapt("push", run, "me/colours")
    if refused:
        assert outcome.code == 1 and "cc-by-nc-4.0" in outcome.error and not Path("colours").exists()
    else:
        assert outcome.code == 0 and "non-commercial use only" in Path("colours/README.md").read_text()


def test_the_same_answers_by_name_from_the_cache(vladapt, run, on_the_hub, spec, colours, monkeypatch):
    """The backbone is a file of the author's: who loads the run says where it lies."""
    images = [colours / name / "03.png" for name in ("red", "blue")]
    expected = vladapt("predict", run, *images, "--coverage", 0.9, "--json").json["predictions"]
    own = ("--backbone", spec)
    for place in (on_the_hub, f"{on_the_hub}@{COMMIT}", "colours"):
        asked = vladapt("predict", place, *images, *own, "--coverage", 0.9, "--json")
        assert asked.code == 0, asked.err
        assert asked.json["predictions"] == expected
    lacking = vladapt("predict", on_the_hub, *images)
    assert lacking.code == 1 and "--backbone" in lacking.error and "small.safetensors" in lacking.error
    assert "hub/models" not in lacking.error


def test_scored_on_other_data(vladapt, run, on_the_hub, spec, colours, class_folders):
    expected = vladapt("eval", run, "--data", colours, "--json").json["adapted"]
    scored = vladapt("eval", on_the_hub, "--data", colours, "--backbone", spec, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["adapted"] == expected and scored.json["run"] == on_the_hub
    assert "published without" in scored.json["in_fit_words"]
    written = Path(scored.json["out"])
    assert written.parts[:2] == ("runs", "me--colours") and "hub/models" not in (written / "report.html").read_text()
    again = vladapt("fit", "--adapter", on_the_hub, "--data", colours, "--backbone", spec, "--json")
    assert again.code == 0, again.err
    assert again.json["adapted"] == expected
    learns = vladapt("fit", "--adapter", on_the_hub, "--data", colours, "--shots", 2)
    assert learns.code == 2 and "--shots" in learns.error and "already fitted" in learns.error


def test_among_the_methods_of_a_comparison(vladapt, on_the_hub, spec, class_folders):
    """Classes are matched by name: here they are the run's last two. Its row is the same for all shots."""
    data = class_folders("green", "red", each=12, name="two")
    common = ("compare", "--domain", "medical", "--backbone", spec, "--seeds", "1", "--splits", "1", "--out", "c")
    methods = ("--adapters", on_the_hub, "--shots", "1,2")
    outcome = vladapt(*common, *methods, "--data", data, "--json")
    assert outcome.code == 0, outcome.err
    rows = [row["accuracy"] for row in outcome.json["rows"] if row["adapter"] == on_the_hub]
    assert len(rows) == 2 and rows[0] == rows[1] > 0.6
    other = class_folders("green", "red", each=12, name="others")
    (other / "red").rename(other / "yellow")
    refused = vladapt(*common, *methods, "--data", other)
    assert "'yellow'" in refused.out + refused.err and "not one of its classes" in " ".join(
        (refused.out + refused.err).split()
    )


@pytest.mark.parametrize(
    "place, words",
    [
        ("hf:me", "no such folder, and not the name of a run or model of the hub"),
        ("hf:../../etc/passwd", "not the name of a run"),
        ("hf:me/colours@../../x", "not the name of a run"),
        ("hf:you/other", "HF_HUB_OFFLINE"),
        ("hf:me/colours@v2", "HF_HUB_OFFLINE"),
    ],
)
def test_names_that_lead_to_no_run(vladapt, on_the_hub, colours, place, words):
    outcome = vladapt("predict", place, colours / "red")
    assert outcome.code == 1 and words in outcome.error


def test_a_published_run_learns_nothing_and_reads_nothing_of_this_machine(vladapt, on_the_hub, colours, cache):
    outcome = vladapt("predict", on_the_hub, colours / "red", "--stream")
    assert outcome.code in (1, 2)
    folder = cache / "models--me--colours" / "snapshots" / COMMIT

    def hostile(info):
        info["origin"] = "../../../../.."
        info["data"]["path"] = info["recipe"]["data"]["path"] = "/etc"
        info["recipe"]["resources"] = {"captions": "/etc/passwd"}
        info["recipe"]["descriptions"] = "/etc/passwd"

    changed(folder, hostile)
    from vladapt.core.runs.folder import Run

    assert "/etc" not in json.dumps(dict(Run.open(on_the_hub).info))


# uploads --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(monkeypatch):
    """The hub's client: calls are kept, nobody is asked. `api.there` is what the hub has of the repository."""
    kept = SimpleNamespace(calls=[], there=None, me={"name": "me", "orgs": [{"name": "us"}]}, token="t")

    def model_info(self, repo):
        if kept.there is None:
            error = hub.errors.RepositoryNotFoundError
            raise error.__new__(error)
        return kept.there

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_token", lambda: kept.token)
    monkeypatch.setattr(hub.HfApi, "whoami", lambda self: kept.me)
    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    for name in ("create_repo", "upload_folder"):
        call = lambda self, *a, _name=name, **how: kept.calls.append((_name, a, how))  # noqa: E731
        monkeypatch.setattr(hub.HfApi, name, call)
    return kept


def repository(library: str | None, *files: str) -> SimpleNamespace:
    return SimpleNamespace(library_name=library, siblings=[SimpleNamespace(rfilename=name) for name in files])


def test_an_upload_is_asked_for_and_takes_the_card_as_it_is(vladapt, run, api):
    assert vladapt("push", run, "me/colours").code == 0 and not api.calls
    card = Path("colours/README.md")
    card.write_text(card.read_text() + "\nAsk me.\n")
    (Path("colours") / "notes.txt").write_text("mine")
    again = vladapt("push", run, "me/colours")
    assert again.code == 1 and "--upload" in again.error
    outcome = vladapt("push", run, "me/colours", "--upload", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["address"].endswith("/me/colours") and card.read_text().endswith("Ask me.\n")
    (made, _, how), (uploaded, _, of) = api.calls
    assert (made, uploaded, how["private"]) == ("create_repo", "upload_folder", True)
    assert "README.md" in of["allow_patterns"] and "notes.txt" not in of["allow_patterns"]


def test_a_repository_of_ours_is_written_again(vladapt, run, api):
    api.there = repository("vladapt", "run.json", "README.md", "adapter.safetensors")
    assert vladapt("push", run, "us/colours", "--upload").code == 0
    assert [name for name, *_ in api.calls] == ["upload_folder"]


def test_a_card_that_tells_a_name_is_not_uploaded(vladapt, run, api):
    assert vladapt("push", run, "me/colours").code == 0
    name = json.loads((run / "run.json").read_text())["splits"]["test"][0]
    card = Path("colours/README.md")
    card.write_text(f"{card.read_text()}\nSee {name}.\n")
    outcome = vladapt("push", run, "me/colours", "--upload")
    assert outcome.code == 1 and name in outcome.error and not api.calls


def test_uploads_that_are_refused(vladapt, run, api, monkeypatch):
    def refused(*words: str, repo: str = "me/colours") -> None:
        shutil.rmtree("colours", ignore_errors=True)
        outcome = vladapt("push", run, repo, "--upload")
        assert outcome.code == 1 and all(word in outcome.error for word in words), outcome.err
        assert not api.calls

    api.there = repository("transformers", "config.json")
    refused("holds no run of vladapt", "config.json")
    api.there = None
    refused("you are me", "us", repo="you/colours")
    monkeypatch.setattr(hub.HfApi, "whoami", lambda self: (_ for _ in ()).throw(ConnectionError("no route")))
    refused("cannot be reached", "no route")
    api.token = None
    refused("hf auth login")
    assert not Path("colours").exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (("colours",), 2, "OWNER/NAME"),
        (("me/..",), 2, "OWNER/NAME"),
        (("me/colours", "--licence", "Apache License"), 1, "apache-2.0"),
        (("me/colours", "--out", "data"), 1, "exists"),
    ],
)
def test_what_cannot_be_pushed(vladapt, run, arguments, code, words):
    outcome = vladapt("push", run, *arguments)
    assert outcome.code == code and words in outcome.error
