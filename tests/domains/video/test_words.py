"""What commands print of clips: their own words in place of images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import vladapt
from vladapt.cli import main
from vladapt.core.errors import DataError


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--domain", "video"], "images: no class folders with clips in it; put the clips of each class"),
        (["--recipe=video/default"], "images: no class folders with clips in it; put the clips of each class"),
        (["--domain", "natural"], "images: no image in it (known: .jpg"),
    ],
)
def test_errors_are_in_the_words_of_the_domain_but_for_the_place(flags, says, clips, monkeypatch, capsys):
    monkeypatch.chdir(clips("images/1.mp4"))
    with pytest.raises(SystemExit):
        main(["fit", *flags, "--data", "images"])
    assert says in capsys.readouterr().err


def test_progress_tables_and_notes_are_in_the_words_of_the_domain(clips, small_clip_spec, monkeypatch, capsys):
    """Of `fit`, `predict` and `compare`."""

    def printed(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return out, err

    folder = clips(*(f"set/{c}/{n}.mp4" for c in ("run", "sit") for n in range(4)))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("vladapt.core.runtime.progress.PLAIN_EVERY_S", 0.0)
    of = ["--domain", "video", "--data", "set", "--backbone", small_clip_spec, "--frames", 2]
    out, err = printed("fit", *of, "--adapter", "mean-pool", "--set", "adapter.epochs=1", "--shots", 2)
    assert "Checking clips: " in err and " clips/s" in err and "on 4 clips" in err and "test clips" in out
    assert "image" not in out + err + (next(Path("runs").iterdir()) / "log.txt").read_text()
    of_index = ("index", "set/run", "--domain", "video", "--backbone", small_clip_spec, "--out", "made")
    out, err = printed(*of_index)
    assert "image" not in out + err and "Index:  made (4 clips, flat" in out
    out, err = printed("predict", *Path("runs").iterdir(), "set/run")
    assert "clip" in out and "image" not in out + err
    (folder / "set/run/9.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit):
        main(["predict", str(next(Path("runs").iterdir())), "set/run", "--tolerate", "0"])
    assert "1 of 5 clips cannot be read" in capsys.readouterr().err
    with pytest.raises(DataError, match="1 of 9 clips cannot be read"):
        vladapt.fit(domain="video", data="set", backbone=small_clip_spec, adapter="mean-pool", tolerate=0.0)
    test = {
        "adapter": "ape",
        "data": "set",
        "shots": 1,
        "baseline": "zero-shot",
        "difference": 0.1,
        "metric": "accuracy",
    }
    compared = SimpleNamespace(
        summary=list,
        published=list,
        front=list,
        costs={},
        tests=lambda: [{**test, "p_holm": 0.5, "interval": (0.0, 0.2), "test_images": 4}],
        method="adapter",
        refused={},
        notes=["4 images"],
        skipped=[],
        csv="a.csv",
        plot="a.png",
    )

    def compare(recipe, reporter, **how):
        reporter.info("Looking at 4 images")
        return compared

    monkeypatch.setattr("vladapt.core.engine.compare.compare", compare)
    out, err = printed("compare", *of, "--adapters", "ape")
    assert "4 test clips" in out and "Note: 4 clips." in out and err == "Looking at 4 clips\n"
    predicted = SimpleNamespace(rows=list, skipped=[], files=[], notes=["1 of 1 image is unlike those of the fit"])
    monkeypatch.setattr("vladapt.core.engine.fit.predict", lambda *places, **how: predicted)
    monkeypatch.setattr("vladapt.core.engine.fit.check_answered", lambda predicted, tolerate: None)
    out, _ = printed("predict", *Path("runs").iterdir(), "set/run", "--json")
    assert "1 of 1 clip is unlike those of the fit" in out
