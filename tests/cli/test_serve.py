"""`vladapt serve`: a run answers requests in the words and numbers of `predict`; what cannot be served says why."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="extra serve is not installed")
pytest.importorskip("multipart", reason="extra serve is not installed")
pytest.importorskip("httpx", reason="the client of starlette's tests is not installed")

from PIL import Image
from starlette.testclient import TestClient

from vladapt.core.contracts.serving import Serving, Wishes
from vladapt.core.engine.serve import load_served
from vladapt.core.errors import CapabilityError
from vladapt.core.explanation.evidence import LabelledImages
from vladapt.core.serving.app import Access, build_app
from vladapt.core.serving.batching import best_batch
from vladapt.core.serving.desk import Desk
from vladapt.core.serving.uploads import Limits


@pytest.fixture
def client(run, tmp_path):
    """Of the run of the colours."""
    model = load_served(run, Serving(device="cpu", max_pixels=100_000))
    assert best_batch(model) in model.sizes and model.clock is time.process_time
    (tmp_path / "uploads").mkdir()
    desk = Desk(model, 4, Limits(), tmp_path / "uploads", 2, print)
    with TestClient(build_app(desk, Access()), base_url="http://127.0.0.1:8000") as made:
        yield made


def sent(*files: Path) -> list:
    return [("files", (file.name, file.read_bytes())) for file in files]


def told(predicted: dict) -> dict:
    """What `predict --json` says, with the names of files in place of their paths, and of the run's folder."""
    text = json.dumps({**predicted, "run": Path(predicted["run"]).name})
    for path in sorted({row["id"] for row in predicted["predictions"]}):
        text = text.replace(path, Path(path).name)
    return json.loads(text)


def test_answers_are_those_of_predict(client, run, vladapt, colours, tmp_path):
    Path("torn.png").write_bytes(b"\x89PNG\r\n\x1a\nabc")
    pictures = [next(colours.glob("red/*.png")), next(colours.glob("blue/*.png")), Path("torn.png")]
    for options in ({}, {"coverage": 0.9, "top": 2}, {"coverage": 0.8, "coverage_per": "class"}, {"max_error": 0.1}):
        flags = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
        wanted = told(vladapt("predict", run, *pictures, *flags, "--json").json)
        answer = client.post("/predict", params=options, files=sent(*pictures))
        assert answer.status_code == 200 and list(answer.json()) == list(wanted)
        rows, others = answer.json().pop("predictions"), wanted.pop("predictions")
        for row, other in zip(rows, others, strict=True):
            assert row.keys() == other.keys() and row["confidence"] == pytest.approx(other["confidence"], abs=1e-6)
            assert [row[key] for key in ("id", "label")] == [other[key] for key in ("id", "label")]
            assert row.get("set") == other.get("set") and row.get("unlike") == other.get("unlike")
            assert [each["class"] for each in row["top"]] == [each["class"] for each in other["top"]]
        assert {**answer.json(), "predictions": 0} == {**wanted, "predictions": 0}


def test_damaged_files_get_the_line_of_predict(client, run, vladapt, tmp_path):
    for name, content in {"torn.png": b"abc", "empty.png": b"", "scan.dcm": b"0" * 200, "a.npz": b"PK"}.items():
        Path(name).write_bytes(content)
        line = vladapt("predict", run, name).error.removeprefix("vladapt: ")
        answer = client.post("/predict", files=sent(Path(name)))
        assert answer.status_code == 422 and answer.json() == {"error": line}


def test_large_pictures_are_413(client, tmp_path):
    Image.new("RGB", (400, 400)).save("large.png")
    answer = client.post("/predict", files=sent(Path("large.png")))
    assert answer.status_code == 413 and "PNG of 400 x 400 pixels, the limit is 100000" in answer.json()["error"]


def test_the_nearest_labelled_images_are_numbered_unless_the_server_is_told_to_name_them(client, run, colours):
    answer = client.post("/predict?nearest=2", files=sent(next(colours.glob("red/*.png"))))
    examples = answer.json()["predictions"][0]["explanation"]["examples"]
    assert len(examples) == 2 and examples[0]["similarity"] >= examples[1]["similarity"]
    assert set(examples[0]["labels"]) <= {"red", "green", "blue"}
    labelled = LabelledImages.load(run)
    names = dict(zip(map(str, labelled.rows.tolist()), labelled.ids))
    assert not any(name in answer.text for name in names.values())

    model = load_served(run, Serving(device="cpu", training_ids=True))
    samples, _ = model.samples([next(colours.glob("red/*.png"))])
    model.prepare(samples[0])
    model.answer(samples)
    named = model.rows(samples, [], Wishes(nearest=2))["predictions"][0]["explanation"]["examples"]
    assert [each["id"] for each in named] == [names[each["id"]] for each in examples]


def test_wrong_numbers_of_labelled_images_are_told(client, colours):
    wrong = client.post("/predict?nearest=0", files=sent(next(colours.glob("red/*.png"))))
    assert wrong.status_code == 400 and wrong.json()["error"].startswith("--nearest 0: give a number")
    wrong = client.post("/predict?set_method=aps", files=sent(next(colours.glob("red/*.png"))))
    assert wrong.status_code == 400 and "give --coverage too" in wrong.json()["error"]


def test_methods_that_need_the_pictures_themselves_are_served_too(fit, vladapt, colours, tmp_path):
    made = fit("--data", colours, "--adapter", "zero", "--shots", "0", "--json").json["run"]
    model = load_served(Path(made), Serving(device="cpu"))
    picture = next(colours.glob("green/*.png"))
    samples, _ = model.samples([picture])
    model.prepare(samples[0])
    assert samples[0].prepared is None and model.examples(1) == []
    model.answer(samples)
    row = model.rows(samples, [], Wishes())["predictions"][0]
    wanted = vladapt("predict", made, picture, "--json").json["predictions"][0]
    assert (row["label"], row["confidence"]) == (wanted["label"], pytest.approx(wanted["confidence"], abs=1e-6))


def test_pictures_of_a_corpus_are_normalised_as_predict_does(vladapt, small_clip_spec, colours):
    given = ("--data", colours, "--corpus", "rs5m", "--backbone", small_clip_spec, "--adapter", "nearest-mean")
    made = vladapt("fit", "--domain", "remote-sensing", *given, "--shots", 2, "--json").json["run"]
    picture = next(colours.glob("green/*.png"))
    model = load_served(Path(made), Serving(device="cpu"))
    samples, _ = model.samples([picture])
    model.prepare(samples[0])
    model.answer(samples)
    wanted = vladapt("predict", made, picture, "--json").json["predictions"][0]["confidence"]
    assert model.rows(samples, [], Wishes())["predictions"][0]["confidence"] == pytest.approx(wanted, abs=1e-6)


def test_runs_that_are_not_served(fit, colours, tmp_path, run):
    made = fit("--data", colours, "--adapter", "stat-a", "--shots", "0", "--json")
    with pytest.raises(CapabilityError, match="reads all images together, so an answer would"):
        load_served(Path(made.json["run"]), Serving())
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "domain": None, "task": "retrieval"}))
    with pytest.raises(CapabilityError, match="names no classes; find images with it: vladapt index IMAGES --backbone"):
        load_served(run, Serving())


def test_what_is_wrong_is_told_in_one_line_before_anything_is_loaded(vladapt, run, monkeypatch):
    monkeypatch.delenv("VLADAPT_TOKEN", raising=False)
    outcome = vladapt("serve", run, "--host", "0.0.0.0")
    assert outcome.code == 2
    assert outcome.error.startswith("vladapt: --host 0.0.0.0: other machines can reach it, so give --token, or")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = vladapt("serve", run, "--port", taken.getsockname()[1])
    assert outcome.code == 2 and "cannot be used (Address already in use)" in outcome.error
    assert vladapt("serve", run, "--workers", "0").error == "vladapt: --workers 0: give 1 or more"
    outcome = vladapt("serve", "nothing", "--port", "0")
    assert outcome.code == 1 and "nothing" in outcome.error


def test_what_the_command_says_reaches_the_server(vladapt, run, monkeypatch):
    settings = []
    monkeypatch.setattr("vladapt.core.engine.serve.serve_socket", lambda given, listening, told: settings.append(given))
    assert vladapt("serve", run, "--port", "0").code == 0
    assert vladapt("serve", run, "--port", "0", "--training-ids", "--max-pixels", "9", "--max-mb", "2").code == 0
    plain, changed = (each.serving for each in settings)
    assert (plain.training_ids, changed.training_ids, changed.max_pixels) == (False, True, 9)
    assert settings[1].limits.request_bytes == 2 << 20
