"""Starts and ends Ray, and talks to the actor that collects heartbeats."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from common import environment, scratch
from common.errors import JobStalled, MienError
from common.run.watchdog import Beats, Monitor

OBJECT_STORE_BYTES = 200 * 2**20  # only tasks and results cross it, never frames or rows
START_S = 180
KNOCK_S = 10.0
LONGEST_TEMPORARY = 41  # characters of a folder in which the paths of Ray's sockets stay below the kernel's 108
HEAR_S = 10.0
SHUTDOWN_S = 30.0


@functools.cache
def _token() -> str:
    """The token of the clusters that this process starts. It is made once: Ray keeps the first token that it reads."""
    return secrets.token_hex(32)


@contextmanager
def variables(remote: str | None) -> Iterator[None]:
    """Sets, for the block, the variables that Ray reads at its import and in the processes that it starts."""
    changes = {
        environment.RAY_USAGE_STATS_ENABLED: environment.RAY_USAGE_STATS_ENABLED.get() or "0",
        environment.RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO: environment.RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO.get() or "0",
        environment.RAY_BACKEND_LOG_LEVEL: environment.RAY_BACKEND_LOG_LEVEL.get() or "fatal",
        # Ray Data's threads outlive an ended job for a moment; their calls would start another Ray in this process.
        environment.RAY_ENABLE_AUTO_CONNECT: "0",
        # Never left to a default that changes between Ray's releases.
        environment.RAY_AUTH_MODE: environment.RAY_AUTH_MODE.get() or "token",
        environment.RAY_CLIENT_MODE: environment.RAY_CLIENT_MODE.get() or "0",
        environment.RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING: "0",
    }
    if not remote:
        changes[environment.RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER] = "0"
    if changes[environment.RAY_AUTH_MODE] == "token" and not remote:
        changes[environment.RAY_AUTH_TOKEN] = environment.RAY_AUTH_TOKEN.get() or _token()
    with environment.temporary(changes):
        yield


class Session:
    """A connection to the cluster at `address`, or a Ray of our own on this machine, which ends with this process.

    Ray is started and ended in a thread, because these calls may never return: in one of nine tries, a driver that was
    stopped (SIGSTOP) during the start and then continued hung for good. The thread lives as long as Ray does, because
    the kernel kills Ray's processes with the thread that started them.
    """

    def __init__(self, address: str | None) -> None:
        self.cpus = 0  # of the cluster
        self.monitor: Any = None
        self._address = address
        self._begun, self._over = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._others = {process.pid for process in psutil.Process().children()}
        self._thread = threading.Thread(target=self._live, daemon=True, name="ray")

    def start(self) -> None:
        """Raises `MienError` if Ray does not start or cannot be reached, `JobStalled` if it does not answer in time."""
        self._thread.start()
        # In steps of a second: if this process is stopped (Ctrl-Z), that counts as one step.
        if not any(self._begun.wait(1.0) for _ in range(START_S)):
            raise JobStalled(f"Ray did not start within {START_S} s: run the command again")
        if self._error is not None:
            where = f"at {self._address} cannot be reached" if self._address else "does not start on this machine"
            remedy = "check RAY_ADDRESS and its token" if self._address else "run `mien doctor`"
            raise MienError(f"Ray {where} ({_first_line(self._error)}): {remedy}") from self._error

    def end(self) -> None:
        """Ends Ray's processes on this machine, by force if its own call does not return."""
        self._over.set()
        if self._begun.is_set():
            self._thread.join(SHUTDOWN_S)
        if self._thread.is_alive():
            import ray

            atexit.unregister(ray.shutdown)  # would wait for the call that does not return
            for child in psutil.Process().children():
                if child.pid not in self._others:
                    with suppress(psutil.NoSuchProcess):
                        for process in [*child.children(recursive=True), child]:
                            process.kill()

    def _live(self) -> None:
        import ray

        try:
            with _silent_stderr():
                _init(self._address)
            self.cpus = int(ray.cluster_resources().get("CPU", 1))
            self.monitor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Monitor).remote()
        except Exception as error:
            self._error = error
        self._begun.set()
        self._over.wait()
        ray.shutdown()

    def heard(self) -> Beats | None:
        """The heartbeats so far, None if the monitor does not answer."""
        import ray

        try:
            beats: Beats = ray.get(self.monitor.heard.remote(), timeout=HEAR_S)
        except ray.exceptions.GetTimeoutError:
            return None
        return beats


@contextmanager
def running(address: str | None) -> Iterator[Session]:
    """A `Session` that is started, for the block, in which this process works in an empty folder.

    For Ray puts the driver's folder first on its workers' import path, where a user's `train.py` would hide ours.
    Resolve relative paths before.
    """
    before = os.getcwd()
    with scratch.folder() as empty, variables(address):
        os.chdir(empty)
        session = Session(address)
        try:
            session.start()
            yield session
        finally:
            session.end()
            os.chdir(before)


def _init(address: str | None) -> None:
    import ray

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}  # stdout is the command's own
    if address:
        _knock(address)
        ray.init(address=address, **quiet)
    else:
        folder = str(scratch.claim())
        ray.init(
            address="local",
            _temp_dir=folder if len(folder) <= LONGEST_TEMPORARY else None,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends to /dev/null what Ray's core writes to stderr while it starts; errors are raised anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _knock(address: str) -> None:
    """Raises `OSError` if no server listens at host:port, where Ray would wait for minutes. Ignores other addresses."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
