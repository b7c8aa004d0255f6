"""Whether this machine and a store are fit for the work: the answer of `mien doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from common.errors import MienError, PreconditionFailed, StoreError
from common.store import Store

# Distribution and module; each is loaded in a process of its own, which a broken library may take down.
PACKAGES = {
    "av": "av",
    "decord": "decord",
    "deepspeed": "deepspeed",
    "duckdb": "duckdb",
    "facenet-pytorch": "facenet_pytorch",
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "pyarrow": "pyarrow",
    "ray": "ray.data",
    "retinaface-pytorch": "retinaface.network",
    "s3fs": "s3fs",
    "safetensors": "safetensors.numpy",
    "simplejpeg": "simplejpeg",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
}
IMPORT_S = 180
GIB = 1 << 30
_GPU = (
    "import torch\n"
    "for i in range(torch.cuda.device_count()):\n"
    "    p = torch.cuda.get_device_properties(i)\n"
    "    print(f'{p.name}, {p.total_memory / 2**30:.0f} GiB, bfloat16', p.major >= 8 and 'yes' or 'no')"
)


@dataclass(frozen=True)
class Check:
    """`detail` is what was found and, where the state is not ok, what to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str


def examine(lake: str | None = None) -> Iterator[Check]:
    """All checks, as they are made; with a lake also that its store keeps the promises the commit protocol needs."""
    yield from _packages()
    yield from _machine()
    yield _gpu()
    if lake is not None:
        yield from _store(lake)


def _python(code: str) -> subprocess.CompletedProcess[str]:
    # Isolated: a module of the same name in the current folder is not the one that is installed.
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=IMPORT_S)


def _packages() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    fit = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Check("python", "ok" if fit else "fail", version if fit else f"{version}: use Python 3.11 or 3.12")
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(_package, PACKAGES)


def _package(name: str) -> Check:
    try:
        version = importlib.metadata.version(name)
        loaded = _python(f"import {PACKAGES[name]}")
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed: run make setup")
    except subprocess.TimeoutExpired:
        return Check(name, "fail", f"{version} did not load within {IMPORT_S} s: look at the disk it is on")
    if loaded.returncode == 0:
        return Check(name, "ok", version)
    said = (loaded.stderr.strip().splitlines() or [f"killed by signal {-loaded.returncode}"])[-1]
    return Check(name, "fail", f"{version} does not load ({said}): install it again with make clean setup")


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


def _gpu() -> Check:
    try:
        found = _python(_GPU)
    except subprocess.TimeoutExpired:
        return Check("gpu", "warn", f"the driver did not answer within {IMPORT_S} s: try nvidia-smi")
    if found.returncode == 0 and found.stdout.strip():
        return Check("gpu", "ok", "; ".join(found.stdout.strip().splitlines()))
    if Path("/proc/driver/nvidia").exists():
        return Check("gpu", "warn", "there is an NVIDIA driver that torch cannot use: try nvidia-smi")
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
