"""`vladapt.testing` holds the checks, and is cheap to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vladapt import testing

SUBJECTS = ("adapter", "loss", "domain", "task")


def test_checks_are_exported_for_each_kind_of_plug_in():
    names = [name for subject in SUBJECTS for name in (f"check_{subject}", f"{subject}_checks")]
    assert set(dir(testing)) == {*names, "ContractError"}
    assert all(callable(getattr(testing, name)) for name in names)
    assert issubclass(testing.ContractError, AssertionError)
    with pytest.raises(AttributeError, match="check_backbone"):
        _ = testing.check_backbone


def test_importing_it_imports_no_torch():
    code = "import sys, vladapt.testing; print([m for m in ('torch', 'numpy', 'mmengine') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
