"""The first ten minutes: a step counts as passed only with its exit code, without a traceback, and with its warning.

Each case starts a bare Python, since exit codes and processor time are those of a process.
"""

from __future__ import annotations

import sys

import first_ten_minutes as ten
import pytest
import typer


@pytest.mark.parametrize(
    ("code", "expected", "warns", "passed", "lines"),
    [
        ("print('one'); print('two')", 0, "", True, 2),
        ("print('one')", 1, "", False, 1),
        ("raise SystemExit('no network')", 1, "", True, 1),
        ("raise ValueError('broken')", 1, "", False, 4),
        ("print('nothing like it')", 0, "stand out", False, 1),
        ("print('it does not stand out')", 0, "stand out", True, 1),
    ],
)
def test_a_step_passes_only_as_it_should(code, expected, warns, passed, lines, tmp_path, capsys):
    start = (sys.executable, "-I", "-S", "-c")
    cost = ten._run(ten.Command("step", (code,), expected, warns), start, tmp_path)
    assert (cost.as_expected, cost.lines) == (passed, pytest.approx(lines, abs=1))
    assert 0 < cost.cpu_seconds < 60 and ("not as expected" in ten._row(cost)) == (not passed)
    assert bool(capsys.readouterr().err) == (not passed)
    assert ten._in_all([cost, cost]).lines == 2 * cost.lines and ten._in_all([cost]).as_expected == passed


def test_every_command_of_the_first_minutes_is_there():
    from vladapt.cli import build_app

    there = typer.main.get_command(build_app([])).commands
    assert {command.words[0] for command in ten.COMMANDS} <= set(there)
    assert any(command.warns for command in ten.COMMANDS) and any(command.code for command in ten.COMMANDS)
