"""Threads of torch that wait for work sleep soon, so that they cost nothing on a busy machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

STARTED = """
from vladapt.cli import main
try:
    main(["--version"])
except SystemExit:
    import torch
"""


@pytest.mark.thorough(but=("of_user0", "of_user2"))
@pytest.mark.skipif(sys.platform != "linux", reason="torch waits in GNU's library of OpenMP under Linux")
@pytest.mark.parametrize(
    ("of_user", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),  # the library's own number, which depends on the machine
    ],
)
def test_a_command_waits_asleep_unless_the_user_says_otherwise(of_user, spins):
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", STARTED],
        env={**inherited, **of_user, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
    )
    told = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if told is None:
        pytest.skip("torch is built with another library of OpenMP")
    assert told[1] == spins if spins else told[1] != "1000"
