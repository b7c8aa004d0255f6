"""Finds the container format of a file from its first bytes, before any decoder opens it.

FFmpeg recognises formats by content and would follow a playlist named clip.mp4 to local files or URLs (CVE-2016-1897).
So only known video containers pass, and the decoder is told which demuxer to use: MP4, MOV and 3GP;
Matroska and WebM; AVI; FLV; ASF and WMV; Ogg; MPEG program and transport streams; bare MPEG-1 and MPEG-2 video.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator

from common.errors import VideoError

HEAD_BYTES = 64 << 10
MAX_BOXES = 10_000
TS_SYNC = 0x47
_ASF_DATA = b"\x36\x26\xb2\x75"

# FFmpeg's name of the demuxer, by the bytes at the start.
_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"OggS", "ogg"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpegvideo"),
)
_STILLS = (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1")  # major brands of pictures (ISO/IEC 23008-12)
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_VIDEO_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")


def container_of(fd: int) -> str:
    """FFmpeg's name of the demuxer for an open file.

    VideoError: `unreadable` (empty), `not_video` (not one of the known containers), `encrypted`.
    """
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise VideoError("unreadable", "it is a folder or a device, not a file")
    try:
        head = os.pread(fd, HEAD_BYTES, 0)
    except OSError as error:
        raise VideoError("unreadable", f"the file cannot be read: {error.strerror}") from None
    if not head:
        raise VideoError("unreadable", "the file is empty")
    name = family(head)
    if name is None:
        raise VideoError("not_video", f"its first bytes are those of no known video container but of {_guess(head)}")
    if name == "mov" and _is_encrypted(fd):
        raise VideoError("encrypted", "the video track is encrypted (Common Encryption)")
    return name


def stated_bytes(fd: int, container: str) -> int:
    """The length in bytes that the file's header states for the whole file; 0 if it states none.

    Matroska and WebM: the segment's size (RFC 8794, RFC 9559); ASF: the data object's (ASF specification, 5.1).
    """
    head = os.pread(fd, HEAD_BYTES, 0)
    if container == "matroska":
        end = 0
        for identifier in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):
            if head[end : end + 4] != identifier or (size := _ebml_size(head[end + 4 : end + 12])) is None:
                return 0
            end += 4 + size[1] + size[0]
        return end
    if container == "asf" and len(head) >= 24:
        start = int(struct.unpack("<Q", head[16:24])[0])
        data = os.pread(fd, 24, start) if start < os.fstat(fd).st_size else b""
        if data[:4] == _ASF_DATA and len(data) == 24:
            return start + int(struct.unpack("<Q", data[16:])[0])
    return 0


def _ebml_size(data: bytes) -> tuple[int, int] | None:
    """(size of an element, bytes of the size field itself); None if the size is unknown, as in live streams."""
    length = 9 - data[0].bit_length() if data else 9
    if length > 8 or len(data) < length:
        return None
    ones = (1 << 7 * length) - 1
    size = int.from_bytes(data[:length], "big") & ones
    return None if size == ones else (size, length)


def family(head: bytes) -> str | None:
    """The demuxer for a file that begins with `head`; None if it is no known container."""
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return name
    if head[4:8] in _ISO_BOXES:
        return None if _is_still(head) else "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "mpegts" if _is_transport_stream(head) else None


def _is_still(head: bytes) -> bool:
    """An AVIF or HEIF picture, which FFmpeg would show as a video of one frame."""
    return head[4:8] == b"ftyp" and head[8:12] in _STILLS


def _is_transport_stream(head: bytes) -> bool:
    """Sync bytes 188 apart (or 192 with time codes, 204 with error correction), at the start of the file."""
    if _is_text(head):
        return False
    for size, offset in ((188, 0), (192, 4), (204, 0)):
        marks = head[offset : offset + 5 * size : size]
        if len(marks) >= 2 and all(mark == TS_SYNC for mark in marks):
            return True
    return False


def _guess(head: bytes) -> str:
    known = (
        ((b"#EXTM3U",), "a playlist"),
        ((b"ffconcat", b"<?xml", b"<MPD", b"v=0"), "a playlist or text"),
        ((b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"fLaC"), "an audio file"),
        ((b"RIFF",), "a RIFF file other than AVI"),
        ((b"\xff\xd8\xff", b"\x89PNG", b"GIF8"), "a picture"),
    )
    if _is_still(head):
        return "a picture"
    for prefixes, name in known:
        if head.lstrip().startswith(prefixes):
            return name
    return "text" if _is_text(head) else "something else"


def _is_text(head: bytes) -> bool:
    return all(9 <= byte < 127 for byte in head[:512])


def _boxes(fd: int, start: int, end: int, steps: Iterator[int]) -> Iterator[tuple[bytes, int, int]]:
    """(type, start of content, end) of the ISO-BMFF boxes in a range (ISO/IEC 14496-12, 4.2).

    Each box takes one of `steps`; it stops when there are none left.
    """
    for _ in steps:
        if start + 8 > end:
            return
        head = os.pread(fd, 16, start)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        content = start + 8
        if size == 1 and len(head) == 16:
            size, content = struct.unpack(">Q", head[8:])[0], start + 16
        stop = end if size == 0 else start + size
        if stop < content:
            return
        yield kind, content, min(stop, end)
        start = stop


def _is_encrypted(fd: int) -> bool:
    """Whether a video track's sample entry is `encv` (ISO/IEC 23001-7, 4.1). FFmpeg hides that name."""
    steps = iter(range(MAX_BOXES))
    ranges = [(0, os.fstat(fd).st_size)]
    for step in _VIDEO_PATH:
        ranges = [(start, stop) for outer in ranges for kind, start, stop in _boxes(fd, *outer, steps) if kind == step]
    # A sample description begins with a version and a count of its entries.
    return any(kind == b"encv" for start, stop in ranges for kind, _, _ in _boxes(fd, start + 8, stop, steps))
