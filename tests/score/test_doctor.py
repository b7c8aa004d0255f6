"""`mien doctor`: what is broken is found, named, and comes with what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from common.store.store import Store
from score import doctor

ASKS_TORCH = doctor._GPU


@pytest.fixture(autouse=True)
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading all of them takes ten seconds; what asks torch for GPUs is tried below."""
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": "numpy", "pyarrow": "pyarrow"})
    monkeypatch.setattr(doctor, "_GPU", "")


def by_name(lake: str | None = None) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(lake)}


def test_a_sound_machine_has_nothing_broken(tmp_path: Path) -> None:
    found = by_name(str(tmp_path / "lake"))
    assert {"python", "numpy", "cores", "memory", "/dev/shm", "gpu"} <= found.keys()
    assert not [check for check in found.values() if check.state == "fail"]
    assert found["numpy"].detail[0].isdigit()


def test_a_package_that_is_absent_or_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {
        "no-such-package": "x",
        "numpy": "numpy.no_such_module",
        "pyarrow": "os; os.abort()",
        "duckdb": "os; os._exit(3)",
    }
    monkeypatch.setattr(doctor, "PACKAGES", packages)
    found = by_name()
    assert [found[name].state for name in packages] == ["fail"] * 4
    assert "make setup" in found["no-such-package"].detail
    assert "no_such_module" in found["numpy"].detail
    assert "signal 6" in found["pyarrow"].detail
    assert "status 3" in found["duckdb"].detail


def test_a_package_that_hangs_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": "time; time.sleep(60)", "pyarrow": "json"})
    monkeypatch.setattr(doctor, "STEP_S", 0.5)
    found = by_name()
    assert "no answer within 0.5 s" in found["numpy"].detail
    assert found["pyarrow"].state == "ok"


def test_what_a_package_prints_when_it_is_loaded_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "os; print('[\"numpy\", \"\", null]'); os.system('echo noise'); raise SystemExit('broken')"
    monkeypatch.setattr(doctor, "PACKAGES", {"numpy": noise})
    assert by_name()["numpy"].state == "fail"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards, of 80 and 16 GiB, for the code that asks torch for them."""
    torch = pytest.importorskip("torch")
    cards = [SimpleNamespace(name=f"Card {n}", total_memory=n << 30, major=major) for n, major in ((80, 9), (16, 7))]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)


def test_gpus_are_named_with_what_uses_them(gpus: None, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    exec(ASKS_TORCH, {})
    printed = capsys.readouterr().out
    assert printed.splitlines() == ["Card 80, 80 GiB, bfloat16 yes", "Card 16, 16 GiB, bfloat16 no"]
    monkeypatch.setattr(doctor, "_GPU", f"print({printed!r})")
    found = by_name()["gpu"]
    assert found.state == "ok"
    assert found.detail.startswith("Card 80, 80 GiB, bfloat16 yes; Card 16")
    assert "mien score run on CPUs" in found.detail


def test_a_driver_that_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_GPU", "raise RuntimeError('driver too old')")
    found = by_name()["gpu"]
    assert found.state == "warn"
    assert "driver too old" in found.detail


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
