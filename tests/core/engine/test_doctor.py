"""The doctor names what is wrong and how to mend it."""

import sys

import pytest

from vladapt.core.engine import doctor
from vladapt.core.errors import ConfigError


def versions(monkeypatch, **found):
    names = {name.replace("_", "-"): version for name, version in found.items()}
    monkeypatch.setattr(doctor, "installed_version", lambda name: names.get(name))


def test_two_opencv_wheels_of_different_versions_are_named(monkeypatch):
    versions(monkeypatch, opencv_python="4.10.0.84", opencv_python_headless="4.12.0.88")
    finding = doctor._opencv()
    assert not finding.ok
    assert "opencv-python 4.10.0.84" in finding.found and "two versions share one cv2" in finding.found
    assert finding.cure == "pip install --force-reinstall opencv-python==4.12.0.88 opencv-python-headless==4.12.0.88"


def test_a_cv2_that_is_not_the_wheels_is_named(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    versions(monkeypatch, opencv_python="3.1.0.0", opencv_python_headless="3.1.0.0")
    finding = doctor._opencv()
    assert not finding.ok and f"cv2 is {cv2.__version__}, the wheels say 3.1.0.0" in finding.found


def test_this_installation_has_one_working_cv2():
    assert doctor._opencv().ok


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "pydicom" else real(name))
    finding = next(f for f in doctor.examine() if f.what == "extra medical")
    assert not finding.ok and "no pydicom" in finding.found and "[medical]'" in finding.cure


def test_a_package_outside_its_range_is_named(monkeypatch):
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.0" if name == "pydicom" else real(name))
    finding = next(f for f in doctor.examine() if f.what == "extra medical")
    assert not finding.ok and "pydicom 1.0 (wants" in finding.found


def test_a_cv2_that_does_not_import_is_replaced_by_one_that_wants_no_display(monkeypatch):
    versions(monkeypatch, opencv_python="5.0.0.93")
    monkeypatch.setitem(sys.modules, "cv2", None)
    finding = doctor._opencv()
    assert not finding.ok and "cv2 does not import" in finding.found
    assert finding.cure == "pip install --force-reinstall --no-deps opencv-contrib-python-headless==5.0.0.93"


def test_a_cv2_with_windows_is_named(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "\n  GUI:                 QT5\n")
    assert "built with QT5 windows, which want libGL" in doctor._opencv().found


def test_a_domain_says_what_it_stands_on():
    assert any(finding.what.startswith("open-vocab: ") for finding in doctor.examine())


def test_a_domain_may_be_asked_by_options_that_it_declares(monkeypatch, tmp_path):
    room = tmp_path / "domains" / "clocks"
    room.mkdir(parents=True)
    (room / "doctor.py").write_text(
        "from dataclasses import dataclass\n"
        "from vladapt.core.contracts.domain import Finding\n"
        "from vladapt.core.contracts.options import option\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class DoctorOptions:\n"
        "    hours: int = option(0, 'how late it is', low=0, high=23)\n"
        "def findings():\n"
        "    return [Finding('clock', True, 'ticks')]\n"
        "def examined(options):\n"
        "    return [Finding('clock', True, f'{options.hours} hours')]\n"
    )
    monkeypatch.setattr(doctor, "PACKAGE_ROOT", tmp_path)
    assert [finding.found for finding in doctor.examine_asked({"hours": "7"})] == ["7 hours"]
    assert "ticks" in [finding.found for finding in doctor.examine()]
    with pytest.raises(ConfigError, match="hours=99"):
        doctor.examine_asked({"hours": "99"})
