"""benchmarks: `--help` describes a benchmark and runs nothing."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_benchmark_asks_for_help_before_it_starts():
    started = {file.name: file.read_text() for file in BENCHMARKS.glob("*.py")}
    started = {name: text for name, text in started.items() if '\nif __name__ == "__main__":\n' in text}
    silent = [
        name
        for name, text in started.items()
        if "ArgumentParser(" not in text and '__name__ == "__main__":\n    print_help(__doc__' not in text
    ]
    assert len(started) > 40 and silent == []


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["-h"], 0), (["draw"], 2)])
def test_help_and_missing_words_end_with_the_description(words, code, monkeypatch, capsys):
    file = BENCHMARKS / "video_decoding.py"
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(file), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    shown = capsys.readouterr()
    assert ended.value.code == code
    assert (shown.err if code else shown.out).startswith("What reading clips costs")
