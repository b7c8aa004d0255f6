"""Every environment variable that mien reads or sets; no other module touches the environment.

Some variables are read by libraries only, but mien's messages or documents name them: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE and the rest of AWS's credential chain (botocore), TMPDIR (folder of temporary
files), TORCH_HOME (folder of the detector's weights), OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES (torch).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """An environment variable of this process and of the processes that it starts."""

    name: str
    meaning: str

    def get(self) -> str | None:
        """Its value; None if it is not set, or empty."""
        return os.environ.get(self.name) or None

    def set_default(self, value: str) -> None:
        """Sets it for the rest of the process, unless the user has set it."""
        os.environ.setdefault(self.name, value)

    def unset(self) -> None:
        os.environ.pop(self.name, None)


# What a user sets

MIEN_S3_ENDPOINT = Variable("MIEN_S3_ENDPOINT", "URL of the S3 server; not set: AWS")
AWS_ENDPOINT_URL = Variable("AWS_ENDPOINT_URL", "the same, where MIEN_S3_ENDPOINT is not set")
AWS_REGION = Variable("AWS_REGION", "region of the S3 server")
AWS_DEFAULT_REGION = Variable("AWS_DEFAULT_REGION", "the same, where AWS_REGION is not set")
RAY_ADDRESS = Variable("RAY_ADDRESS", "host:port of the Ray cluster that does the work; not set: this machine")
XDG_CACHE_HOME = Variable("XDG_CACHE_HOME", "folder below which bundles from S3 are kept; not set: ~/.cache")
NO_COLOR = Variable("NO_COLOR", "set: logs on a terminal have no colours (no-color.org)")
MIEN_LOG = Variable("MIEN_LOG", "'text' or 'json': form of the logs; not set: text on a terminal, JSON elsewhere")
WORLD_SIZE = Variable("WORLD_SIZE", "how many processes a launcher such as torchrun has started for one training")
MIEN_FAULT = Variable("MIEN_FAULT", "tests only: where this process is to fail, see common/faults.py")

# What mien sets for the libraries that it uses

RAY_AUTH_MODE = Variable("RAY_AUTH_MODE", "'token': Ray's ports refuse requests without the token")
RAY_AUTH_TOKEN = Variable("RAY_AUTH_TOKEN", "the token of the Ray cluster")
RAY_USAGE_STATS_ENABLED = Variable("RAY_USAGE_STATS_ENABLED", "'0': Ray reports nothing to its makers")
RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO = Variable(
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "'0': Ray does not hide the GPUs from a worker that asks for none"
)
RAY_BACKEND_LOG_LEVEL = Variable("RAY_BACKEND_LOG_LEVEL", "'fatal': Ray's core keeps its warnings to itself")
RAY_ENABLE_AUTO_CONNECT = Variable("RAY_ENABLE_AUTO_CONNECT", "'0': no call of Ray starts a cluster by itself")
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER = Variable(
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "'0': a Ray started here listens on 127.0.0.1 alone, as it does on macOS"
)
RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING = Variable(
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING", "'0': Ray Train leaves the logs of its workers to us"
)
RAY_CLIENT_MODE = Variable("RAY_CLIENT_MODE", "'0', set by Ray itself once it runs")
RANK = Variable("RANK", "number of this process among those of a training")
MASTER_ADDR = Variable("MASTER_ADDR", "machine of process 0 of a training")
MASTER_PORT = Variable("MASTER_PORT", "its port, where the processes of a training meet")
LOCAL_RANK = Variable("LOCAL_RANK", "number of this process on its machine, which DeepSpeed asks for")
DS_ACCELERATOR = Variable("DS_ACCELERATOR", "'cpu' or 'cuda'; if not set, DeepSpeed prints on stdout what it finds")
OMP_WAIT_POLICY = Variable("OMP_WAIT_POLICY", "'PASSIVE': torch's threads sleep while they wait, and do not spin")
NO_ALBUMENTATIONS_UPDATE = Variable("NO_ALBUMENTATIONS_UPDATE", "'1': albumentations does not ask for newer versions")

# The whole environment of a decoder process, which gets nothing of ours. decord reads PATH.
OF_A_DECODER = {"PATH": "", "OPENBLAS_NUM_THREADS": "1"}


def threads(count: int) -> dict[str, str]:
    """Variables that give the libraries of a new process `count` threads each; they read them at their import."""
    return {name: str(count) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def launched(rank: int, world: int, port: int) -> dict[str, str]:
    """Variables for one of `world` processes of a training on this machine, as torchrun sets them."""
    where = {MASTER_ADDR.name: "127.0.0.1", MASTER_PORT.name: str(port)}
    return where | {RANK.name: str(rank), LOCAL_RANK.name: str(rank), WORLD_SIZE.name: str(world)}


def elsewhere() -> dict[str, str]:
    """Variables for a process on another machine: where S3 is, but no credentials, and that its threads do not spin."""
    wanted = (MIEN_S3_ENDPOINT, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, OMP_WAIT_POLICY)
    return {each.name: value for each in wanted if (value := each.get())}


def logs(*, as_text: bool) -> dict[str, str]:
    """Variables for a process whose logs come to a terminal, if `as_text`, though it does not see one."""
    return {MIEN_LOG.name: "text"} if as_text and not MIEN_LOG.get() else {}


def values() -> dict[str, str]:
    """All variables that are set, mien's or not: `common.log` must know which values are secret."""
    return dict(os.environ)


@contextmanager
def temporary(changes: Mapping[Variable, str]) -> Iterator[None]:
    """Sets variables for the block and puts back what was there before.

    To keep what the user has set, pass `{variable: variable.get() or default}`.
    """
    before = {variable.name: os.environ.get(variable.name) for variable in changes}
    os.environ.update({variable.name: value for variable, value in changes.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
