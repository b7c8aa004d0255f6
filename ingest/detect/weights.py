"""RetinaFace's weights: from a file, or downloaded once from where they are published; checked, never unpickled."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from common import download as download_
from common.errors import UsageError

OTHERWISE = (
    "fetch it by other means and name the file by the detector's option `weights`, or use the detector mtcnn, whose "
    "weights are installed"
)


def read(path: Path, sha256: str | None) -> Mapping[str, Tensor]:
    """The tensors of a file that torch saved; it may be the only member of a zip file.

    Raises UsageError if the file is missing, holds anything but tensors, or has another digest than `sha256`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the detector's weights cannot be read from {path}: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(sha256 or ""):
        raise UsageError(f"{path} is not the weights file it should be: its SHA-256 is {digest}, not {sha256}")
    try:
        tensors = torch.load(io.BytesIO(_unzipped(data)), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises several types, none of them documented
        raise UsageError(f"{path} holds no weights that can be loaded safely ({type(error).__name__})") from None
    if not isinstance(tensors, Mapping) or not all(isinstance(each, Tensor) for each in tensors.values()):
        raise UsageError(f"{path} holds something else than a network's weights")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _unzipped(data: bytes) -> bytes:
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) == 1:  # torch's own format is a zip of many members
                if members[0].file_size > download_.MAX_BYTES:
                    raise ValueError(f"its content would have {members[0].file_size} bytes")
                return archive.read(members[0])
    return data


def cache_folder() -> Path:
    """The folder of downloads: torch's own cache of checkpoints (below $TORCH_HOME)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def download(url: str, folder: Path) -> tuple[Path, str]:
    """Downloads `url` to `folder` unless it is there. Returns the path, and the beginning of the SHA-256 in the name.

    The name ends in the first digits of the file's SHA-256, as in torch.hub ("net-f168fae3c.zip"). These few digits
    detect a broken or wrong download, but not a forged file; the option `weights_sha256` does.
    """
    name = url.rsplit("/", 1)[-1]
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    if match is None:
        raise UsageError(f"{url} states no digest to check a download against: name a local file of weights")
    target = folder / name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        download_.download(url, target, match[1], OTHERWISE)
    return target, match[1]
