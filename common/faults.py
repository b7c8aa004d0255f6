"""Faults for tests: makes this process fail at a named point.

`MIEN_FAULT=name[~part of detail]:action[,...]` in the environment of a test's process, where action is `kill` (SIGKILL
to itself), `stop` (SIGSTOP to itself, once), `raise` or `hang`. Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal
import time

from common import environment


class InjectedFault(RuntimeError):
    """What the action `raise` raises."""


def fault(name: str, detail: str = "") -> None:
    """Fails here if `MIEN_FAULT` names this point and the text behind `~` occurs in `detail` (a key or a URI)."""
    for item in (environment.MIEN_FAULT.get() or "").split(","):
        where, _, action = item.rpartition(":")
        wanted, _, part = where.partition("~")
        if wanted == name and part in detail:
            _fail(action, f"{name} {detail}")


def _fail(action: str, where: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        environment.MIEN_FAULT.unset()  # once: after SIGCONT the process goes on
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "hang":
        while True:
            time.sleep(60)
    elif action == "raise":
        raise InjectedFault(where)
    else:
        raise ValueError(f"MIEN_FAULT names no action kill, stop, raise or hang: {action!r}")
