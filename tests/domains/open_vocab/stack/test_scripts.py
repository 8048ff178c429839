"""`python -m vladapt.domains.open_vocab` in front of a script: mmcv's operators are there, and nothing else is new."""

import sys

import pytest
from forked import run

pytest.importorskip("mmdet")

from vladapt.domains.open_vocab.__main__ import main

SCRIPT = """
import sys
import beside
from mmcv.ops import nms
import torch
kept = nms(torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([.1, .2]), 0.5)[1]
print(__name__, sys.argv[1:], kept.tolist(), beside.here)
sys.exit(3)
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def script(tmp_path):
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "beside.py").write_text("here = True\n")
    (folder / "script.py").write_text(SCRIPT)
    return folder / "script.py"


def test_a_script_runs_as_by_python_itself(script, tmp_path):
    command = ["-m", "vladapt.domains.open_vocab", script, "config.py", "--work-dir", "x"]
    done = run(command, cwd=tmp_path)
    assert done.stdout == "__main__ ['config.py', '--work-dir', 'x'] [1] True\n", done.stderr
    assert done.returncode == 3


def test_a_module_runs_too(script, monkeypatch, capsys):
    monkeypatch.chdir(script.parent)
    (script.parent / "light.py").write_text(
        "import sys, beside\nprint(__name__, sys.argv[1:], beside.here)\nsys.exit(3)\n"
    )
    with pytest.raises(SystemExit, match="3"):
        main(["-m", "light", "a"])
    assert capsys.readouterr().out == "__main__ ['a'] True\n"


def test_an_error_of_ours_is_one_line(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text("from vladapt import DataError\nraise DataError('x.json: is empty')\n")
    assert main([str(script)]) == 1
    assert capsys.readouterr().err == "vladapt: x.json: is empty\n"


def test_what_cannot_be_run_is_told_in_one_line(tmp_path, capsys):
    for arguments, told in [
        ([], "usage: python -m vladapt.domains.open_vocab SCRIPT ARGS"),
        (["--help"], "usage:"),
        (["-m"], "usage:"),
        ([str(tmp_path / "no.py")], "no.py: no such file"),
        ([str(tmp_path)], "is a folder"),
        (["-m", "no.such.module"], "-m no.such.module: no such module"),
    ]:
        assert main(arguments) == 2
        shown = capsys.readouterr()
        assert told in shown.err and shown.err.count("\n") == 1 and shown.out == ""
