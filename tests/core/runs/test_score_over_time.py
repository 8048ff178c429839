"""The picture of what is reached over what image towers cost."""

from vladapt.core.runs.plots import LONGEST, score_over_time


def row(name, milliseconds, score, ahead):
    return {"backbone": name, "milliseconds": milliseconds, "gflop": 2.5, "parameters": 86.0, "score": score} | {
        "on_front": ahead
    }


def test_every_backbone_is_named_a_long_one_by_its_end(tmp_path, recwarn):
    front = [row("a#merge=13", 1, 0.5, True), row("/folder" * 40 + "/b", 3, 0.7, True), row("c", 4, 0.6, False)]
    png, svg = score_over_time(front, tmp_path / "front")
    words = svg.read_text(encoding="utf-8")
    assert "a#merge=13: 2.5 GFLOP, 86 M parameters" in words and "c: 2.5" in words
    assert f"…{('/folder' * 40 + '/b')[-LONGEST:]}" in words and "accuracy (%)" in words
    assert png.read_bytes()[:4] == b"\x89PNG" and not list(recwarn)
