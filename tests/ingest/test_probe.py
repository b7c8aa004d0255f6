"""The allow-list of containers: by magic bytes, never by name."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import av
import pytest

from common.errors import VideoError
from ingest import probe


def container(path: Path) -> str:
    with open(path, "rb") as file:
        return probe.container_of(file.fileno())


def reason(path: Path) -> str:
    with pytest.raises(VideoError) as error:
        container(path)
    assert error.value.message
    return error.value.reason


@pytest.mark.parametrize(
    ("muxer", "codec", "family"),
    [
        ("mp4", "mpeg4", "mov"),
        ("mov", "mpeg4", "mov"),
        ("3gp", "mpeg4", "mov"),
        ("matroska", "mpeg4", "matroska"),
        ("webm", "libvpx", "matroska"),
        ("avi", "mpeg4", "avi"),
        ("flv", "flv", "flv"),
        ("mpeg", "mpeg1video", "mpeg"),
        ("vob", "mpeg2video", "mpeg"),
        ("mpegts", "mpeg2video", "mpegts"),
        ("asf", "mpeg4", "asf"),
        ("mpeg1video", "mpeg1video", "mpegvideo"),
        ("mpeg2video", "mpeg2video", "mpegvideo"),
    ],
)
def test_what_ffmpeg_writes_is_known_and_its_demuxer_reads_it(
    tmp_path: Path, muxer: str, codec: str, family: str
) -> None:
    path = tmp_path / "no-extension"
    with av.open(str(path), "w", format=muxer) as output:
        stream = output.add_stream(codec, 25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(stream.encode())
    assert container(path) == family
    with av.open(str(path), format=family) as written:
        assert sum(1 for _ in written.decode(video=0)) == 5
    with open(path, "rb") as file:
        stated = probe.stated_bytes(file.fileno(), family)
    assert 0.9 < stated / path.stat().st_size <= 1 if family in ("matroska", "asf") else stated == 0


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "ffconcat version 1.0\nfile /etc/passwd\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 1234 RTP/AVP 96\n",
        "\n\n  #EXTM3U\n",
        "GGGG " * 100,
        "just words",
    ],
)
def test_playlist_named_like_a_video_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text(text)
    assert reason(path) == "not_video"


@pytest.mark.parametrize(
    "head", [b"ID3\x04", b"RIFF\x00\x00\x00\x00WAVEfmt ", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n", b"\x00" * 64, b"\x47"]
)
def test_sound_pictures_and_noise_are_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(head + bytes(1000))
    assert reason(path) == "not_video"


def test_empty_file_and_folder_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "unreadable"
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(VideoError) as error:
        probe.container_of(folder)
    os.close(folder)
    assert error.value.reason == "unreadable"


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def movie(entry: bytes) -> bytes:
    described = box(b"stsd", bytes(8) + box(entry, bytes(78)))
    return box(b"ftyp", b"isom") + box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", described)))))


@pytest.mark.parametrize("brand", [b"avif", b"heic", b"mif1"])
def test_picture_in_a_video_s_container_is_a_picture(tmp_path: Path, brand: bytes) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(box(b"ftyp", brand + bytes(4) + b"mif1miaf") + box(b"meta", bytes(100)))
    with pytest.raises(VideoError) as error:
        container(path)
    assert (error.value.reason, "a picture" in error.value.message) == ("not_video", True)


def test_stream_of_unknown_length_states_none(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    with av.open(str(path), "w", options={"live": "1"}) as output:
        stream = output.add_stream("mpeg4", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        output.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(stream.encode())
    with open(path, "rb") as file:
        assert probe.stated_bytes(file.fileno(), "matroska") == 0


def test_encrypted_video_track_is_told_and_encrypted_sound_is_not_its_business(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(movie(b"encv"))
    assert reason(path) == "encrypted"
    for entry in (b"enca", b"avc1"):
        path.write_bytes(movie(entry))
        assert container(path) == "mov"


def test_lying_box_sizes_neither_loop_nor_read_far(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for size in (0, 1, 2, 7, 8, 0xFFFFFFFF):
        path.write_bytes(box(b"ftyp", b"isom") + (struct.pack(">I4s", size, b"moov") + b"\xff" * 8) * 50)
        assert container(path) == "mov"
    path.write_bytes(box(b"ftyp") + io.BytesIO(box(b"free") * 200_000).getvalue() + movie(b"encv"))
    assert container(path) == "mov"
