"""Downloads of published weights: a file appears only when it is complete."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from common.errors import MienError

TIMEOUT_S = 60.0
MAX_BYTES = 1 << 30


def download(url: str, target: Path, sha256: str, otherwise: str) -> None:
    """Downloads `url` to the file `target`. Its SHA-256 must begin with `sha256`.

    Raises MienError if that fails; `otherwise` is the part of the message that says what else the user can do.
    """
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            seen, size = hashlib.sha256(), 0
            while block := response.read(1 << 20):
                size += len(block)
                if size > MAX_BYTES:
                    raise MienError(f"{url} is larger than weights can be: download stopped")
                seen.update(block)
                out.write(block)
        if not seen.hexdigest().startswith(sha256):
            raise MienError(f"{url} gave a file of SHA-256 {seen.hexdigest()}, not {sha256}...: try again later")
        os.replace(scratch, target)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise MienError(f"{url} could not be downloaded ({reason}): {otherwise}") from None
    finally:
        Path(scratch).unlink(missing_ok=True)


def from_hub(repository: str, name: str) -> Path:
    """A file of a repository `owner/model` of the Hugging Face hub: the copy in the hub's cache, or downloaded there.

    Raises MienError if that fails.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repository, name))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise MienError(
            f"{name} of {repository} could not be fetched from the Hugging Face hub ({reason}): check the name, or "
            "fetch the file by other means and name its path"
        ) from None
