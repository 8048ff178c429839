"""A stack that is missing, or of versions that do not go together, is told by `install` and by `vladapt doctor`."""

import importlib.metadata
import importlib.util
import json
import sys
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from vladapt.core.errors import CapabilityError
from vladapt.core.runtime.process import installed_version

pytest.importorskip("mmdet")

from vladapt.cli import app
from vladapt.domains.open_vocab.stack import install


@pytest.fixture
def say_versions(monkeypatch):
    """say_versions(mmdet="1.0", mmcv_lite=None): what the installed packages' metadata say; None is not installed."""
    real = importlib.metadata.version

    def say(**changed):
        changed = {name.replace("_", "-"): number for name, number in changed.items()}

        def version(name):
            if name not in changed:
                return real(name)
            if changed[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return changed[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        installed_version.cache_clear()

    yield say
    installed_version.cache_clear()


def doctor():
    found = CliRunner().invoke(app, ["doctor", "--json"])
    assert found.exit_code == 0, found.output
    findings = {finding["what"]: finding for finding in json.loads(found.stdout)["findings"]}
    return {what.removeprefix("open-vocab: "): found for what, found in findings.items() if "open-vocab:" in what}


def test_install_can_be_repeated():
    install()
    install()


def test_a_wrong_version_is_one_line_with_the_cure(say_versions):
    say_versions(mmcv_lite="2.2.0", mmdet="2.28.0")
    with pytest.raises(CapabilityError, match=r"mmcv-lite 2\.2\.0 \(wants .*<2\.2\), mmdet 2\.28\.0 .*open-vocab"):
        install()


def test_what_is_missing_is_one_line_with_the_cure(say_versions, monkeypatch):
    say_versions(mmsegmentation=None)
    monkeypatch.setattr("vladapt.domains.open_vocab.doctor.find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r"no mmseg; pip install 'vladapt\[open-vocab\]'"):
        install()


def test_the_doctor_shows_the_stack():
    found = doctor()
    assert all(finding["ok"] for finding in found.values())
    assert "mmdet 3.3" in found["mm stack"]["found"] and "mmsegmentation 1.2" in found["mm stack"]["found"]
    assert "stand in" in found["operators"]["found"] or "compiled" in found["operators"]["found"]


def test_the_doctor_tells_of_a_broken_stack(say_versions):
    say_versions(mmdet="3.0.0", transformers="4.30.0")
    found = doctor()
    assert not found["mm stack"]["ok"] and "mmdet 3.0.0 (wants" in found["mm stack"]["found"]
    assert found["mm stack"]["cure"] == "pip install 'vladapt[open-vocab]'"
    assert not found["GLIP, Grounding DINO"]["ok"] and "4.30.0" in found["GLIP, Grounding DINO"]["found"]


def test_the_doctor_tells_of_two_mmcvs(say_versions):
    say_versions(mmcv="2.1.0", mmcv_lite="2.1.0")
    found = doctor()["operators"]
    assert not found["ok"] and "mmcv-lite and mmcv are both installed" in found["found"]
    assert found["cure"].startswith("pip uninstall -y mmcv-lite mmcv && ")


def test_the_doctor_knows_the_living_forks(say_versions, monkeypatch):
    assert "forks" not in doctor()
    say_versions(onedl_mmcv="2.3.1", onedl_mmdetection="3.4.0", mmdet=None, mmsegmentation=None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mmseg" else find_spec(name))
    found = doctor()["forks"]
    assert not found["ok"] and found["found"] == (
        "onedl-mmcv 2.3.1, onedl-mmdetection 3.4.0: forks, untested with vladapt; onedl-mmcv and mmcv-lite "
        "share one folder; no mmseg (onedl-mmsegmentation)"
    )
    assert found["cure"] == "pip uninstall -y onedl-mmcv onedl-mmdetection && pip install 'vladapt[open-vocab]'"


def test_the_doctor_tells_of_compiled_operators(tmp_path, monkeypatch):
    """A compiled mmcv that was built for another torch."""
    from vladapt.domains.open_vocab import doctor as of_domain

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(of_domain, "find_spec", lambda name: Spec)
    (tmp_path / "_ext.cpython-311.so").touch()
    assert of_domain._operators().found == "mmcv's own compiled operators (_ext.cpython-311.so)"
    monkeypatch.setitem(sys.modules, "mmcv._ext", None)
    found = of_domain._operators()
    assert not found.ok and "do not load" in found.found and "pip uninstall -y" in found.cure
