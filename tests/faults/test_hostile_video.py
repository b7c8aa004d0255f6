"""Broken, cut, lying and poisoned files: every one ends as frames or as a failure with a reason, soon, nothing left."""

from __future__ import annotations

import io
import os
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from common.errors import VideoError
from common.lake.schema import REASONS
from ingest.decode.reader import DecodeOptions, open_video

LIMITS = {"stall_s": 60, "start_s": 120, "memory_bytes": 1 << 30}  # of time, plenty: the machine may be busy


def outcome(path: Path, **options: object) -> tuple[str, str | None, int]:
    """(status, reason, frames), with all that must hold of any file."""
    began, before = time.monotonic(), psutil.Process().children()
    try:
        with open_video(path, DecodeOptions.model_validate(LIMITS | options)) as reader:
            last = -1
            for batch in reader:
                assert batch.frame_index[0] == last + 1
                assert np.all(np.isfinite(batch.time_s))
                last = int(batch.frame_index[-1])
            assert reader.ending is not None
            assert reader.ending.frames == last + 1 > 0
            result = reader.ending.status, reader.ending.reason, reader.ending.frames
            message = reader.ending.message
    except VideoError as error:
        result, message = ("failed", error.reason, 0), error.message
    assert (result[0] == "ok") == (result[1] is None) == (message is None)
    assert result[1] is None or (result[1] in REASONS and message and "\n" not in message)
    assert time.monotonic() - began < 200
    assert psutil.Process().children() == before
    return result


@pytest.mark.soak
def test_every_odd_file_ends_as_known(odd: Path) -> None:
    known = {
        "av1_video.mkv": ("ok", None, 125),
        "bitmap.mp4": ("ok", None, 5),
        "broken.mp4": ("failed", "unreadable", 0),
        "corrupted.mp4": ("partial", "decode_error", 49),
        "empty.flv": ("failed", "unreadable", 0),
        "h264_10bits.mp4": ("ok", None, 30),
        "h265_video.mp4": ("ok", None, 10),
        "ios9.mov": ("ok", None, 14),
        "mp4parse__amr_nb_1f.3gp": ("failed", "no_video_stream", 0),
        "mp4parse__amr_wb_1f.3gp": ("failed", "no_video_stream", 0),
        "mp4parse__bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp": ("ok", None, 1),
        "mp4parse__bbb_sunflower_QCIF_30fps_mp4v_noaudio_1f.mp4": ("ok", None, 1),
        "mp4parse__bipbop-cenc-audioinit.mp4": ("failed", "no_video_stream", 0),
        "mp4parse__bipbop_480wp_1001kbps-cenc-video-key1-init.mp4": ("failed", "encrypted", 0),
        "mp4parse__bipbop_cbcs_audio_init.mp4": ("failed", "no_video_stream", 0),
        "mp4parse__bipbop_cbcs_video_init.mp4": ("failed", "encrypted", 0),
        "mp4parse__h264_white_frame_sar_16_9.mp4": ("ok", None, 1),
        "mp4parse__hevc_white_frame.mp4": ("ok", None, 1),
        "mp4parse__invalid_userdata.mp4": ("failed", "unreadable", 0),
        "mp4parse__metadata.mp4": ("ok", None, 1),
        "mp4parse__metadata_gnre.mp4": ("ok", None, 1),
        "mp4parse__minimal.mp4": ("ok", None, 1),
        "mp4parse__sine-3s-xhe-aac-44khz-mono.mp4": ("failed", "no_video_stream", 0),
        "mp4parse__test_case_1185230.mp4": ("failed", "decode_error", 0),
        "mp4parse__tiny_av1.mp4": ("ok", None, 1),
        "mp4parse__video_colr_nclx_and_icc.mp4": ("ok", None, 3),
        "mp4parse__video_colr_nclx_two_colr.mp4": ("ok", None, 3),
        "nasa_13013.mp4": ("ok", None, 390),
        "nasa_13013.mp4.audio.mp3": ("failed", "not_video", 0),
        "nasa_13013.mp4.stream3.all_frames_info.json": ("failed", "not_video", 0),
        "no_duration.webm": ("ok", None, 74),
        "transparent.webm": ("ok", None, 150),
        "unordered.mov": ("ok", None, 4),
        "video_0.mov": ("ok", None, 3),
        "video_90.mov": ("ok", None, 3),
        "weird_aspect.small.mpg": ("partial", "decode_error", 36),  # cut off in the last but one
        "zero_bytes.webm": ("failed", "unreadable", 0),
    }
    assert {path.name: outcome(path) for path in sorted(odd.iterdir())} == known


@pytest.mark.slow
@pytest.mark.soak
def test_every_odd_file_ends_the_same_with_decord(odd: Path) -> None:
    for path in sorted(odd.iterdir()):
        assert outcome(path, decoder="decord") == outcome(path), path


def encoded(muxer: str, codec: str) -> bytes:
    """30 frames of noise."""
    file = io.BytesIO()
    noise = np.random.default_rng(3)
    with av.open(file, "w", format=muxer) as container:
        stream = container.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (64, 96, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("muxer", "codec"), [("mp4", "libx264"), ("matroska", "mpeg4"), ("mpegts", "mpeg2video"), ("avi", "mpeg4")]
)
def test_flipped_bits_and_cut_files_end_as_frames_or_a_reason(tmp_path: Path, muxer: str, codec: str) -> None:
    whole = encoded(muxer, codec)
    path = tmp_path / "clip"
    path.write_bytes(whole)
    assert outcome(path) == ("ok", None, 30)
    chance = np.random.default_rng(11)
    for harm in range(12):
        data = np.frombuffer(whole, np.uint8).copy()
        if harm < 3:
            data = data[: len(data) * (harm + 1) // 4]
        else:  # in the headers at the front, in those at the back, or anywhere
            low, high = [(4, 600), (max(4, len(data) - 900), len(data)), (4, len(data))][harm % 3]
            places = chance.integers(low, min(high, len(data)), 3 * harm)
            data[places] = chance.integers(0, 255, len(places), np.uint8)
        path.write_bytes(data.tobytes())
        outcome(path, decoder="decord" if harm % 4 == 3 else "pyav")


def test_huge_picture_in_a_tiny_file_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 16000, 4000, "gray"
        frame = av.VideoFrame(16000, 4000, "gray")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert outcome(path) == ("failed", "too_large", 0)
    assert outcome(path, max_pixels=1 << 27, memory_bytes=256 << 20)[:2] == ("failed", "memory_limit")


def test_playlist_named_as_a_video_or_behind_its_magic_bytes_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encoded("mp4", "libx264"))
    for number, text in enumerate((f"#EXTM3U\n#EXTINF:1,\n{secret}\n", f"ffconcat version 1.0\nfile {secret}\n")):
        path = tmp_path / f"{number}.mp4"
        path.write_text(text)
        assert outcome(path) == ("failed", "not_video", 0)
        # Behind the magic bytes of a container the text is just a broken container.
        path.write_bytes(b"\x00\x00\x00\x08ftyp" + text.encode())
        assert outcome(path)[:2] == ("failed", "unreadable")


def test_file_that_grows_shrinks_or_goes_while_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    data = encoded("avi", "mpeg4")
    for change in (lambda: os.truncate(path, len(data) // 3), lambda: path.write_bytes(b"x"), path.unlink):
        path.write_bytes(data)
        with open_video(path, DecodeOptions(batch_frames=1)) as reader:
            frames = 0
            for batch in reader:
                frames += len(batch)
                if frames == 1:
                    change()
        assert reader.ending is not None
        assert reader.ending.frames == frames >= 1
