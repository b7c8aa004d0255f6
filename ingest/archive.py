"""Lists the videos that a user names: a file, a folder, a glob, s3://bucket/prefix, or a list of URIs.

Rows are streamed in record batches of the plan's `LISTING` schema, so an archive of a million videos needs little
memory. A named file that is missing or cannot be read is listed too, with a version that says why: it becomes a failed
video with a reason, and is not left out.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from common.commit.units import DENIED, LISTING, MISSING, NOT_A_FILE, NOT_UTF8, video_id
from common.errors import AccessDenied, UsageError
from common.lake.layout import is_of_a_lake
from common.store.base import StoreSettings, file_version
from common.store.store import Store
from common.store.uris import canonical_uri, split_uri

BATCH_ROWS = 10_000
LIST_EXTENSIONS = frozenset((".txt", ".csv", ".parquet"))

_Row = tuple[str, str, int]  # URI, version, size in bytes
_IN_BUCKET = re.compile(r"s3://[a-zA-Z0-9._-]{1,255}(/|\Z)")
_WILD = re.compile(r"[*?\[]")


def listing(sources: Sequence[str], settings: StoreSettings | None = None) -> Iterator[pa.RecordBatch]:
    """The videos that `sources` name: batches of at most 10,000 rows (schema `LISTING`), no URI twice in a batch.

    Folders and prefixes are searched recursively. Every file counts, whatever its extension, so that no video is missed
    because of its name; a file that is no video fails later as `not_video`. Hidden files (the name begins with a dot)
    and objects of a lake are left out. Raises UsageError if a source does not exist or holds no file.
    """
    if not sources:
        raise UsageError("no videos given: name a file, a folder, a glob, an s3:// prefix or a list of URIs")
    settings = settings or StoreSettings.from_env()
    # Reads the first row of every source now, so that a wrong source is refused before anything is planned.
    rows = [_not_empty(source, _rows(source, settings)) for source in sources]
    return _batches(itertools.chain.from_iterable(rows))


def _not_empty(source: str, rows: Iterator[_Row]) -> Iterator[_Row]:
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{source} holds no files: name videos, a folder of them, or a list of URIs")
    return itertools.chain([first], rows)


def _batches(rows: Iterator[_Row]) -> Iterator[pa.RecordBatch]:
    while chunk := list(itertools.islice(rows, BATCH_ROWS)):
        unique = {uri: (version, size) for uri, version, size in chunk}
        versions, sizes = zip(*unique.values(), strict=True)
        columns = [[video_id(uri) for uri in unique], list(unique), versions, sizes]
        yield pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(columns, LISTING, strict=True)], schema=LISTING
        )


def _rows(source: str, settings: StoreSettings) -> Iterator[_Row]:
    """The source's videos. A wrong source raises UsageError at the first `next`."""
    if source.startswith("s3://"):
        return _s3(source, settings)
    return _local(canonical_uri(source), settings)


def _local(path: str, settings: StoreSettings) -> Iterator[_Row]:
    if os.path.isdir(path):
        yield from _walk(path)
    elif os.path.lexists(path):
        if _extension(path) in LIST_EXTENSIONS:
            try:
                file = open(path, "rb")  # noqa: SIM115
            except OSError as error:
                raise UsageError(f"{path} cannot be opened: {error.strerror}") from None
            with file:
                yield from _listed(path, file, settings)
        else:
            yield _stat(path)
    elif _WILD.search(path):
        yield from _glob(path)
    else:
        raise UsageError(f"{path} does not exist: name a file, a folder, a glob, an s3:// prefix or a list of URIs")


def _walk(folder: str) -> Iterator[_Row]:
    """The files below a folder, sorted. Does not follow links to folders, which may form a loop."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"{folder} cannot be listed: {error.strerror}, fix its permissions or leave it out") from None
    for entry in entries:
        if entry.name.startswith(".") or is_of_a_lake(entry.path):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif not os.path.isdir(entry.path):  # `entry.is_dir` raises on a link that leads to itself
            yield _stat(entry.path)


def _glob(pattern: str) -> Iterator[_Row]:
    for path in glob.iglob(pattern, recursive=True):
        if is_of_a_lake(path):
            continue
        if not os.path.isdir(path):
            yield _stat(path)
        elif "**" not in pattern:
            yield from _walk(path)


def _stat(path: str) -> _Row:
    try:
        path.encode()
    except UnicodeEncodeError:  # such a name fits in no URI: the table shows its bytes as \\xNN
        return os.fsencode(path).decode("utf-8", "backslashreplace"), NOT_UTF8, 0
    try:
        found = os.stat(path)
    except PermissionError:
        return path, DENIED, 0
    except (OSError, ValueError):
        return path, MISSING, 0
    if not stat.S_ISREG(found.st_mode):
        return path, NOT_A_FILE, 0
    return path, file_version(found), found.st_size


def _s3(uri: str, settings: StoreSettings) -> Iterator[_Row]:
    root, key = split_uri(uri)
    store = Store(root, settings)
    if key and not key.endswith("/") and (found := store.stat(key)) is not None:
        if _extension(key) in LIST_EXTENSIONS:
            with store.open_input(key) as file:
                yield from _listed(uri, file, settings)
        else:
            yield uri, found.version, found.size
        return
    if wild := _WILD.search(key):
        prefix, matches = key[: wild.start()], _matcher(key)
    else:
        prefix, matches = f"{key.rstrip('/')}/" if key else "", re.compile("")
    for entry in store.list(prefix):
        hidden = any(name.startswith(".") for name in entry.key[len(prefix) :].split("/"))
        left_out = hidden or is_of_a_lake(entry.key) or entry.key.endswith("/")
        if not left_out and matches.match(entry.key):
            yield f"{root}/{entry.key}", entry.version, entry.size


def _matcher(pattern: str) -> re.Pattern[str]:
    """A glob over keys as a regular expression: `*` and `?` match within a folder, `**/` any number of folders."""
    parts = re.split(r"(\*\*/?|\*|\?|\[!?\]?[^\]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            regex += re.escape(part)
        else:
            regex += known.get(part) or re.sub(r"^\[!", "[^", part)
    return re.compile(rf"(?s:{regex})\Z")


def _listed(source: str, file: BinaryIO, settings: StoreSettings) -> Iterator[_Row]:
    """The videos in a list file; relative paths are relative to the file's folder."""
    folder = source.rpartition("/")[0]
    read = {".txt": _text_entries, ".csv": _csv_entries, ".parquet": _parquet_entries}[_extension(source)]
    entries = (_entry_uri(folder, entry) for entry in read(source, file))
    with ThreadPoolExecutor(16) as pool:
        while chunk := list(itertools.islice(entries, BATCH_ROWS)):
            remote = any(uri.startswith("s3://") for uri in chunk)  # each needs a request: several at a time
            yield from (pool.map if remote else map)(lambda uri: _stat_any(uri, settings), chunk)


def _entry_uri(folder: str, entry: str) -> str:
    """The canonical URI of an entry. Anything but an s3:// URI is taken for a path."""
    if _IN_BUCKET.match(entry):
        return entry
    if folder.startswith("s3://") and not entry.startswith(("/", "~")):
        return f"{folder}/{entry}"
    return os.path.abspath(os.path.join(folder, os.path.expanduser(entry)))


def _stat_any(uri: str, settings: StoreSettings) -> _Row:
    if not uri.startswith("s3://"):
        return _stat(uri)
    root, key = split_uri(uri)
    try:
        found = Store(root, settings).stat(key) if key else None
    except AccessDenied:
        return uri, DENIED, 0
    return (uri, found.version, found.size) if found else (uri, MISSING, 0)


def _text_entries(source: str, file: BinaryIO) -> Iterator[str]:
    for line in file:
        entry = os.fsdecode(line.strip().removeprefix(b"\xef\xbb\xbf"))
        if entry and not entry.startswith("#"):
            yield entry


def _csv_entries(source: str, file: BinaryIO) -> Iterator[str]:
    try:
        types = pa.csv.ConvertOptions(include_columns=["uri"], column_types={"uri": pa.string()})
        batches: Iterable[pa.RecordBatch] = pa.csv.open_csv(file, convert_options=types)
        yield from _strings(batches)
    except (pa.ArrowInvalid, KeyError) as error:
        raise UsageError(f"{source} cannot be read: {_line(error)}; it needs a header and a column uri") from None


def _parquet_entries(source: str, file: BinaryIO) -> Iterator[str]:
    try:
        table = pa.parquet.ParquetFile(file)
        if "uri" not in table.schema_arrow.names:
            raise UsageError(f"{source} has no column uri: rename the one that holds the videos")
        yield from _strings(table.iter_batches(BATCH_ROWS, columns=["uri"]))
    except pa.ArrowInvalid as error:
        raise UsageError(f"{source} cannot be read: {_line(error)}") from None


def _strings(batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    for batch in batches:
        yield from (str(entry) for entry in batch["uri"].to_pylist() if entry)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()
