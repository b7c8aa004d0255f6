"""Both kinds of pool: results, errors, deaths, commits and a stall."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_workers import MakeToy

from common.errors import JobStalled, MienError, StoreError
from common.run.local import LocalPool
from common.run.pool import Pool, PoolOptions

Make = Callable[..., Pool]


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.soak)])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A pool of toys: processes of this machine, or actors of a cluster."""
    if request.param == "local":
        yield lambda **options: LocalPool(MakeToy(), PoolOptions(**options))
        return
    from common.run.cluster.pool import RayPool

    for name, value in request.getfixturevalue("cluster").items():
        monkeypatch.setenv(name, value)
    yield lambda **options: RayPool(MakeToy(), PoolOptions(**options))
    logger = logging.getLogger("ray")  # Ray takes it for itself; tests of logging share this process
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    logger.handlers.clear()


def unheard(frames: int) -> None:
    pass


def do(pool: Pool, *tasks: tuple[str, Any]) -> list[Any]:
    with pool:
        return list(pool.map_parcels(tasks, unheard))


def test_every_parcel_comes_back_once_in_each_round_and_its_frames_are_told_once(make: Make) -> None:
    frames: list[int] = []
    with make(workers=2) as pool:
        for numbers in ([1, 2, 3], [4]):
            tasks = [("square", number) for number in numbers]
            assert sorted(pool.map_parcels(tasks, frames.append)) == [number**2 for number in numbers]
    assert sum(frames) == 40


def test_an_error_of_a_worker_reaches_the_driver_as_it_was_raised(make: Make) -> None:
    with pytest.raises(StoreError, match=r"^the bucket b cannot be reached: check the endpoint$"):
        do(make(workers=1), ("fail", "the bucket b cannot be reached: check the endpoint"))


def test_an_unexpected_error_of_a_worker_is_one_sentence_that_says_where(make: Make) -> None:
    with pytest.raises(MienError, match=r"failed at stumble 7 \(ZeroDivisionError: nothing by nothing\)"):
        do(make(workers=1), ("stumble", 7))


def test_a_killed_worker_is_replaced_and_its_parcel_is_not_lost(make: Make, tmp_path: Path) -> None:
    tasks = [("die_once", str(tmp_path / name)) for name in "abc"]
    assert sorted(do(make(workers=1), *tasks)) == ["a", "b", "c"]


def test_commits_come_back_among_the_parcels_also_those_that_the_last_parcel_brings(make: Make, tmp_path: Path) -> None:
    found = []
    with make(workers=1) as pool:
        pool.submit(("square", 10))
        for result in pool.map_parcels([("square", 2), ("square", 3)], unheard):
            found.append(result)
            if result < 10:
                pool.submit(("square", 10 * result))
    assert sorted(found) == [4, 9, 100, 1600, 8100]


def test_commits_need_no_parcels(make: Make) -> None:
    with make() as pool:
        for number in range(3):
            pool.submit(("square", number))
        assert sorted(pool.map_parcels([], unheard)) == [0, 1, 4]


def test_a_commit_whose_worker_is_killed_is_done_again(make: Make, tmp_path: Path) -> None:
    with make(workers=1) as pool:
        pool.submit(("die_once", str(tmp_path / "mark")))
        assert list(pool.map_parcels([], unheard)) == ["mark"]


def test_a_commit_that_kills_every_worker_ends_the_job_and_is_named(make: Make) -> None:
    with make(workers=1) as pool:
        pool.submit(("die", "unit u1"))
        with pytest.raises(MienError, match=r"unit u1.* killed its worker 3 times"):
            list(pool.map_parcels([], unheard))


def test_after_an_error_a_commit_under_way_is_waited_for(make: Make, tmp_path: Path) -> None:
    with make(workers=2) as pool:
        pool.submit(("touch_late", str(tmp_path / "committed")))
        with pytest.raises(StoreError):
            list(pool.map_parcels([("fail", "no")], unheard))
        assert (tmp_path / "committed").exists()


def test_a_job_without_progress_ends(make: Make) -> None:
    with pytest.raises(JobStalled, match="no progress for 3 s"):
        do(make(workers=1, stall_s=3), ("stand_still", 7))


def test_more_workers_than_there_are_cpus_are_refused() -> None:
    with pytest.raises(MienError, match=r"this machine has \d+: ask for fewer with --workers"):
        do(LocalPool(MakeToy(), PoolOptions(workers=4000)), *[("square", n) for n in range(4000)])


def test_a_worker_s_node_is_up(make: Make) -> None:
    assert do(make(workers=1), ("lives", None)) == [True]


def test_a_folder_with_a_train_py_is_not_imported_from(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.run.pool import installation

    (tmp_path / "train.py").write_text("raise RuntimeError('the stranger was imported')")
    monkeypatch.chdir(tmp_path)
    ((found, path),) = do(make(workers=1), ("surroundings", None))
    assert found == installation()
    assert str(tmp_path) not in path
    assert Path.cwd() == tmp_path
