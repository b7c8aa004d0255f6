"""A worker whose tasks are pairs (what to do, with what), for the tests of pools; workers import this module."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import StoreError
from common.run.pool import Beat, Node, installation


@dataclass(frozen=True)
class MakeToy:
    """`prepared`: a file to which the process that prepares writes its id."""

    prepared: str | None = None

    def prepare(self) -> None:
        if self.prepared:
            Path(self.prepared).write_text(str(os.getpid()))

    def __call__(self, node: Node) -> Toy:
        return Toy(node)


class Toy:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.done: list[str] = []

    def __call__(self, task: tuple[str, Any], beat: Beat) -> Any:
        action, argument = task
        beat(f"{action} {argument}", 0)
        result = getattr(self, action)(argument, beat)
        self.done.append(action)
        return result

    def square(self, number: int, beat: Beat) -> int:
        beat(str(number), 10)
        return number * number

    def fail(self, sentence: str, beat: Beat) -> None:
        raise StoreError(sentence)

    def stumble(self, _: object, beat: Beat) -> None:
        raise ZeroDivisionError("nothing by nothing")

    def stand_still(self, _: object, beat: Beat) -> None:
        time.sleep(600)

    def die(self, _: object, beat: Beat) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, mark: str, beat: Beat) -> str:
        if not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Path(mark).name

    def die_late_the_third_time(self, mark: str, beat: Beat) -> None:
        """Dies at once twice; then writes the file, and dies some seconds later."""
        with Path(f"{mark}.attempts").open("a") as attempts:
            attempts.write("x")
        if Path(f"{mark}.attempts").stat().st_size == 3:
            Path(mark).touch()
            time.sleep(3.0)
        os.kill(os.getpid(), signal.SIGKILL)

    def fail_after(self, mark: str, beat: Beat) -> None:
        self.wait_for(mark, beat)
        raise StoreError("the first error")

    def wait_for(self, mark: str, beat: Beat) -> str:
        """Returns once the file is there, and says so every moment until then."""
        while not Path(mark).exists():
            beat(mark, 0)
            time.sleep(0.02)
        return Path(mark).name

    def touch_late(self, mark: str, beat: Beat) -> None:
        time.sleep(1.0)
        Path(mark).touch()

    def lives(self, _: object, beat: Beat) -> bool:
        return self.node.id in self.node.living()

    def history(self, _: object, beat: Beat) -> tuple[int, list[str]]:
        return os.getpid(), list(self.done)

    def surroundings(self, _: object, beat: Beat) -> tuple[dict[str, str], list[str]]:
        return installation(), sys.path

    def threads(self, _: object, beat: Beat) -> int:
        """How many threads this process has after a large product of matrices."""
        matrix = np.ones((600, 600))
        assert (matrix @ matrix)[0, 0] == 600
        return len(os.listdir("/proc/self/task"))

    def speak(self, word: str, beat: Beat) -> None:
        print(word, flush=True)
        logging.getLogger("mien.toy").warning(word)

    def beget(self, folder: str, beat: Beat) -> None:
        """Starts a child, writes both process ids to a file, and stands still."""
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        Path(folder, "pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
