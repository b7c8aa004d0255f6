"""A bundle on S3: copied to a cache on this machine, named by the digest of its `bundle.json`, so never stale."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path

from common import environment
from common.bundle import weights
from common.bundle.card import CARD
from common.bundle.manifest import MANIFEST, BundleManifest, parse
from common.errors import MienError, NotFound, UsageError
from common.store.base import StoreSettings
from common.store.store import Store


def fetch(url: str, settings: StoreSettings | None) -> Path:
    """The local folder of the bundle at `url`, downloaded unless the cache has it undamaged.

    Raises UsageError if there is no bundle or a damaged one, MienError if the cache cannot be written.
    """
    store = Store(url, settings)
    try:
        text = store.read(MANIFEST)
    except NotFound:
        raise UsageError(f"there is no bundle at {url}: it holds no {MANIFEST}") from None
    manifest = parse(text, url)
    caches = Path(environment.XDG_CACHE_HOME.get() or Path.home() / ".cache")
    folder = caches / "mien" / "bundles" / hashlib.sha256(text).hexdigest()
    if _whole(folder, manifest):
        return folder
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        scratch.mkdir(parents=True)
        _download(store, manifest, scratch)
        (scratch / MANIFEST).write_bytes(text)
        if not _whole(scratch, manifest):
            raise UsageError(f"the weights of the bundle {url} are damaged: copy the bundle there again")
        _place(scratch, folder, manifest)
    except OSError as error:
        if not _whole(folder, manifest):
            raise MienError(f"the bundle {url} cannot be kept in {folder.parent}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _download(store: Store, manifest: BundleManifest, scratch: Path) -> None:
    for name in manifest.files:
        try:
            store.download(name, scratch / name)
        except NotFound:
            raise UsageError(f"{name} of the bundle {store.url} is missing: copy the bundle there again") from None
    with contextlib.suppress(NotFound):  # nothing is read from the card, so a copy may lack it
        store.download(CARD, scratch / CARD)


def _place(scratch: Path, folder: Path, manifest: BundleManifest) -> None:
    """Renames `scratch` to `folder`, unless another process has put the same bundle there: it may be in use."""
    try:
        os.rename(scratch, folder)
    except OSError:
        if not _whole(folder, manifest):
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(scratch, folder)


def _whole(folder: Path, manifest: BundleManifest) -> bool:
    try:
        for name, expected in manifest.files.items():
            weights.check(folder / name, expected)
    except UsageError:
        return False
    return (folder / MANIFEST).is_file()
