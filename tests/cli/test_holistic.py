"""`eval --holistic`, as a user runs it."""

from pathlib import Path

from vladapt import load_domain
from vladapt.core.contracts.corruption import Corruption
from vladapt.core.judgements import corruptions as module
from vladapt.core.judgements import out_of_distribution


def test_an_evaluation_is_made_where_it_is_asked_for(vladapt, colours, small_clip_spec, monkeypatch):
    """Two cheap kinds in place of fifteen; the images go through a tower again."""
    dark = Corruption("dark", lambda image, severity, seed: image // (1 + severity))
    swapped = Corruption("swapped", lambda image, severity, seed: image[..., ::-1].copy())
    monkeypatch.setattr(module, "corruptions", lambda: (dark, swapped))
    monkeypatch.setattr(out_of_distribution, "drawn_samples", lambda fit, most: ())  # tests/cli/test_unlike_images.py
    monkeypatch.setattr(load_domain("medical").__class__, "corruptions", ())
    run = ["fit", "--domain", "medical", "--data", str(colours), "--backbone", small_clip_spec, "--shots", "2"]
    run += ["--adapter", "tip-adapter", "--out", "run", "--json"]
    folder = vladapt(*run).json["run"]
    plain = vladapt("eval", folder, "--json").json
    assert "corruptions" not in plain
    lacking = vladapt("eval", folder, "--holistic", "--json").json["corruptions"]
    assert lacking["kinds"] is None and "the tower's images are smaller than 32 pixels" in lacking["lacking"]
    monkeypatch.setattr(module, "LEAST_SIDE", 8)
    first = vladapt("eval", folder, "--holistic", "--holistic-images", "9", "--json").json
    made, attacked, words = (first[key] for key in ("corruptions", "attacks", "typographic"))
    assert attacked["images"] == 9 and set(attacked["radii"]) == {"2", "4"} and not attacked["lacking"]
    assert attacked["radii"]["4"]["accuracy"] <= attacked["radii"]["2"]["accuracy"] <= attacked["clean"]
    assert "the tower's images are smaller than 32 pixels" in words["lacking"]
    assert made["images"] == 9 and set(made["kinds"]) == {"dark", "swapped"}
    assert made["kinds"]["swapped"]["accuracy"] == made["kinds"]["swapped"]["accuracy"][:1] * 5
    assert made == vladapt("eval", folder, "--holistic", "--holistic-images", "9", "--json").json["corruptions"]
    apgd = vladapt("eval", folder, "--holistic", "--holistic-images", "3", "--attack", "apgd", "--json").json["attacks"]
    assert apgd["attack"] == "apgd" and apgd["images"] == 3
    assert "--attack: only with --holistic" in vladapt("eval", folder, "--attack", "apgd").err
    every = vladapt("eval", folder, "--holistic", "--holistic-images", "all", "--out", "seen", "--json").json
    assert every["corruptions"]["images"] == every["test_images"] > 9
    page, worst = Path("seen/report.html").read_text(encoding="utf-8"), every["corruptions"]["worst"]
    assert page.count(f" of {every['corruptions']['times']} times") >= len(worst)
    assert ("Wrong most often when corrupted" in page) == bool(worst)
    refused = vladapt("eval", folder, "--holistic-images", "9").err
    assert "--holistic-images: only with --holistic; give both, or omit it" in refused
    failing = vladapt("eval", folder, "--fail-under", "accuracy=1,accuracy.point=-1")
    assert failing.code == 1 and "--fail-under: accuracy is " in failing.err and "below 1\n" in failing.err
    assert vladapt("eval", folder, "--fail-under", "accuracy.point=0").code == 0
