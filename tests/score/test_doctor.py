"""`mien doctor`: what is broken is found, named, and comes with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.store import Store
from score import doctor


@pytest.fixture(autouse=True)
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading all of them takes half a minute."""
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": "numpy", "pyarrow": "pyarrow"})
    monkeypatch.setattr(doctor, "_GPU", "pass")


def by_name(lake: str | None = None) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(lake)}


def test_a_sound_machine_has_nothing_broken(tmp_path: Path) -> None:
    found = by_name(str(tmp_path / "lake"))
    assert {"python", "numpy", "cores", "memory", "/dev/shm", "gpu"} <= found.keys()
    assert not [check for check in found.values() if check.state == "fail"]
    assert found["numpy"].detail[0].isdigit()


def test_a_package_that_is_absent_or_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"no-such-package": "x", "numpy": "numpy.no_such_module", "pyarrow": "os; os.abort()"}
    monkeypatch.setattr(doctor, "PACKAGES", packages)
    found = by_name()
    assert [found[name].state for name in packages] == ["fail"] * 3
    assert "make setup" in found["no-such-package"].detail
    assert "no_such_module" in found["numpy"].detail
    assert "signal 6" in found["pyarrow"].detail


def test_a_package_that_hangs_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": "time; time.sleep(60)"})
    monkeypatch.setattr(doctor, "IMPORT_S", 0.5)
    assert "did not load" in by_name()["numpy"].detail


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_good_store_keeps_its_promises_and_is_left_clean(kind: str, tmp_path: Path, request) -> None:
    url = str(tmp_path / "lake") if kind == "local" else request.getfixturevalue("s3_url")
    found = by_name(url)
    assert [check.state for name, check in found.items() if "puts at" in name] == ["ok", "ok"]
    assert list(Store(url).list()) == []


def test_a_store_that_ignores_conditions_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What an S3 look-alike does that takes the headers and does not look at them."""

    def replace(self: Store, key: str, data: bytes, version: str) -> str:
        (tmp_path / key).write_bytes(data)
        return "any"

    monkeypatch.setattr(Store, "replace", replace)
    found = by_name(str(tmp_path))
    assert found[f"store {tmp_path}"].state == "fail"
    assert "whatever version" in found[f"store {tmp_path}"].detail


def test_a_store_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    found = by_name(str(tmp_path / "file"))
    assert found[f"store {tmp_path / 'file'}"].state == "fail"


def test_too_little_room_is_a_warning_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 64 << 20, "total": 64 << 20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    found = by_name()["/dev/shm"]
    assert found.state == "warn"
    assert "--shm-size" in found.detail


def test_loading_is_isolated_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    assert by_name()["numpy"].state == "ok"
