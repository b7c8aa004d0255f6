"""`mien doctor`: checks this machine and a store."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from common.errors import MienError, PreconditionFailed, StoreError
from common.store.store import Store

# Distribution -> module. They are imported in another process, because a broken library may crash it.
PACKAGES = {
    "av": "av",
    "decord": "decord",
    "deepspeed": "deepspeed",
    "duckdb": "duckdb",
    "facenet-pytorch": "facenet_pytorch",
    "h5py": "h5py",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "opencv-python-headless": "cv2",
    "pyarrow": "pyarrow",
    "ray": "ray.data",
    "retinaface-pytorch": "retinaface.network",
    "s3fs": "s3fs",
    "safetensors": "safetensors.numpy",
    "simplejpeg": "simplejpeg",
    "torch": "torch",
    "torchvision": "torchvision",
}
STEP_S = 120
GIB = 1 << 30
_GPU = (
    "import torch\n"
    "for i in range(torch.cuda.device_count()):\n"
    "    p = torch.cuda.get_device_properties(i)\n"
    "    print(f'{p.name}, {p.total_memory / 2**30:.0f} GiB, bfloat16', p.major >= 8 and 'yes' or 'no')"
)
# The program of that process: runs the steps of its argument and writes [name, output, error] as JSON for each.
_STEPS = """
import contextlib, io, json, os, sys
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for name, code in json.loads(sys.argv[1]).items():
    problem = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(code, {})
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
    print(json.dumps([name, printed.getvalue(), problem]), file=out, flush=True)
"""


@dataclass(frozen=True)
class Check:
    """The result of one check. `detail`: what was found and, if the state is not ok, what to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str


def examine(lake: str | None = None) -> Iterator[Check]:
    """All checks, one after the other; with a lake also whether its store does what the commit protocol needs."""
    yield _python()
    yield from _loaded()
    yield from _machine()
    if lake is not None:
        yield from _store(lake)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    fit = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Check("python", "ok" if fit else "fail", version if fit else f"{version}: use Python 3.11 or 3.12")


def _loaded() -> Iterator[Check]:
    """Checks that every package loads, and then the GPU as torch sees it."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed: run make setup")
    steps = {name: f"import {PACKAGES[name]}" for name in versions}
    for name, printed, problem in _run(steps | {"gpu": _GPU}):
        if name == "gpu":
            yield _gpu(printed, problem)
        elif problem is None:
            yield Check(name, "ok", versions[name])
        else:
            advice = "install it again with make clean setup"
            yield Check(name, "fail", f"{versions[name]} does not load ({problem}): {advice}")


def _run(steps: Mapping[str, str]) -> Iterator[tuple[str, str, str | None]]:
    """Runs steps of Python code in another process: (name, what it printed, its error or None) of each.

    One process runs all steps, as many import the same libraries. If a step kills it or takes `STEP_S`, another process
    goes on with the next step.
    """
    left = dict(steps)
    while left:
        # -I: so that a module in the current folder does not hide an installed one of the same name.
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _STEPS, json.dumps(left)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            while left:
                started, timer = time.monotonic(), threading.Timer(STEP_S, process.kill)
                timer.start()
                line = process.stdout.readline()
                timer.cancel()
                if not line:
                    late = time.monotonic() - started >= STEP_S
                    name = next(iter(left))
                    del left[name]
                    yield name, "", f"no answer within {STEP_S} s" if late else _ending(process.wait())
                    break
                name, printed, problem = json.loads(line)
                del left[name]
                yield name, printed, problem
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _ending(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"its process ended with status {status}"


def _machine() -> Iterator[Check]:
    yield Check("cores", "ok", str(len(os.sched_getaffinity(0))))
    memory = psutil.virtual_memory()
    yield _room("memory", memory.available, memory.total, least=4 * GIB, advice="free some, or run fewer --workers")
    scratch = tempfile.gettempdir()
    disk = shutil.disk_usage(scratch)
    yield _room(f"disk {scratch}", disk.free, disk.total, least=5 * GIB, advice="set TMPDIR to a folder with more room")
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm")
        yield _room("/dev/shm", shared.free, shared.total, least=GIB, advice="give the container a larger --shm-size")
    else:
        yield Check("/dev/shm", "warn", "there is none: Ray keeps its objects on disk, which is slow")


def _room(name: str, free: int, total: int, *, least: int, advice: str) -> Check:
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free >= least:
        return Check(name, "ok", found)
    return Check(name, "warn", f"{found}, {least / GIB:.0f} are needed: {advice}")


def _gpu(printed: str, problem: str | None) -> Check:
    if printed.strip():
        found = "; ".join(printed.strip().splitlines())
        return Check("gpu", "ok", f"{found}; mien train uses it, mien ingest and mien score run on CPUs for now")
    if problem or Path("/proc/driver/nvidia").exists():
        why = problem or "there is an NVIDIA driver"
        return Check("gpu", "warn", f"torch can use none ({why}): if there should be one, try nvidia-smi")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    speed = "is fast" if "amx_bf16" in flags or "avx512_bf16" in flags else "works but is slow, use float32"
    return Check("gpu", "ok", f"none, everything runs on the CPU, where bfloat16 {speed}")


def _store(url: str) -> Iterator[Check]:
    try:
        store = Store(url)
        store.check_exclusive()
        yield Check(f"create-only puts at {url}", "ok", "one of 16 racing writers won")
        _check_replace(store)
        yield Check(f"conditional puts at {url}", "ok", "a put that names another version is refused")
    except MienError as error:
        yield Check(f"store {url}", "fail", str(error))


def _check_replace(store: Store) -> None:
    key = f"_doctor/replace-{uuid.uuid4().hex}"
    first = store.create(key, b"first")
    try:
        store.replace(key, b"second", first)
        store.replace(key, b"third", first)
    except PreconditionFailed:
        if store.read(key) == b"second":
            return
    finally:
        store.delete([key])
    raise StoreError(f"{store.url} replaces an object whatever version a put names: use AWS S3, or a local disk")
