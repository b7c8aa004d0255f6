"""Results that threads make ahead of their use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from common.errors import MienError
from train.data.ahead import ahead
from train.models import ranks


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_the_order_of_the_items_however_long_each_takes(threads: int) -> None:
    late = threading.Event()

    def make(number: int) -> int:
        if number == 0 and threads > 1:
            assert late.wait(10)  # the first is ready after the second
        late.set()
        return number * number

    assert list(ahead(make, range(20), threads)) == [number * number for number in range(20)]


def test_no_more_is_made_ahead_than_one_result_more_than_there_are_threads() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    results = ahead(lambda number: number, items(), 2)
    assert next(results) == 0
    assert asked == [0, 1, 2, 3]
    results.close()
    assert asked == [0, 1, 2, 3]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_up_where_its_result_is_asked_for(threads: int) -> None:
    def make(number: int) -> int:
        if number == 2:
            raise MienError("the crop of frame 2 is damaged")
        return number

    results = ahead(make, range(5), threads)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(MienError, match=r"^the crop of frame 2 is damaged$"):
        next(results)


def test_closing_waits_for_what_is_under_way_and_makes_nothing_more() -> None:
    made: list[int] = []
    begun, released = threading.Event(), threading.Event()

    def make(number: int) -> int:
        if number == 1:
            begun.set()
            assert released.wait(10)
        made.append(number)
        return number

    results = ahead(make, range(10), 1)
    assert next(results) == 0
    assert begun.wait(10)
    threading.Timer(0.05, released.set).start()
    results.close()
    assert made == [0, 1]


def test_what_is_made_ahead_takes_its_share_of_the_batch_whatever_is_computed_meanwhile() -> None:
    portions = ranks.portions(8, most=4)
    results = ahead(lambda step: ranks.whole(step), range(6), 1)
    found = [next(results)]
    for _ in range(5):
        with portions[0].computed():  # as the loop does in a step, while a thread makes batches
            assert ranks.whole(4) == 8
            time.sleep(0.01)
        found.append(next(results))
    assert found == list(range(6))
