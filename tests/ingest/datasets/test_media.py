"""The pictures, clips and folders of frames that labels are about."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from labelled import clip, picture

from common.errors import UsageError
from ingest.datasets.media import Media, seen


def test_a_name_is_found_with_any_extension_below_the_first_folder_that_has_it(tmp_path):
    best = picture(tmp_path / "faces" / "1" / "a.PNG")
    picture(tmp_path / "frames" / "1" / "a.jpg")
    other = picture(tmp_path / "frames" / "2" / "b.c" / "0.jpg").parent
    media = Media(tmp_path, "faces", "frames", "absent")
    assert (media.find("1/a"), media.find("2/b.c")) == (best, other)
    assert media.find("1/b") is media.find("3/a") is None


def test_hidden_files_are_not_found(tmp_path):
    picture(tmp_path / ".a.jpg")
    assert Media(tmp_path, ".").find(".a") is None


def test_a_name_that_leads_out_of_the_folder_is_not_found(tmp_path):
    outside = picture(tmp_path / "a.jpg")
    (tmp_path / "dataset").mkdir()
    media = Media(tmp_path, "dataset")
    assert media.find("../a") is media.find(str(outside.with_suffix(""))) is None


def test_a_picture_is_seen_in_rgb(tmp_path):
    shown = seen(picture(tmp_path / "a.png", (250, 100, 5)))
    assert shown.shape == (32, 32, 3)
    assert shown[16, 16].tolist() == [250, 100, 5]


def test_of_a_folder_the_middle_frame_by_number_is_seen(tmp_path):
    for number in range(8, 13):  # by name, 10.png would be the first and 8.png the middle one
        picture(tmp_path / "c" / f"{number}.png", (number * 10, 0, 0))
    (tmp_path / "c" / ".DS_Store").write_bytes(b"x")
    assert seen(tmp_path / "c")[0, 0].tolist() == [100, 0, 0]


@pytest.mark.parametrize(("frames", "middle"), [(1, 0), (2, 1), (9, 4)])
def test_of_a_clip_the_middle_frame_is_seen(tmp_path, frames, middle):
    shown = seen(clip(tmp_path / "c.mp4", [(20 + 20 * n, 60, 60) for n in range(frames)]))
    assert np.abs(shown.astype(int).mean(axis=(0, 1)) - [20 + 20 * middle, 60, 60]).max() < 6


def test_what_does_not_decode_is_named(tmp_path):
    for name, said in {"a.jpg": "the picture .*cannot be decoded", "a.mp4": "the clip .*cannot be decoded"}.items():
        (tmp_path / name).write_bytes(b"not a picture")
        with pytest.raises(UsageError, match=said):
            seen(tmp_path / name)
    whole = picture(tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UsageError, match=r"cut\.jpg cannot be decoded"):
        seen(tmp_path / "cut.jpg")
    header = b"IHDR" + struct.pack(">IIBBBBB", 70_000, 70_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(huge + whole)
    with pytest.raises(UsageError, match=r"huge\.png cannot be decoded"):
        seen(tmp_path / "huge.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"empty\.jpg cannot be decoded"):
        seen(tmp_path / "empty.jpg")
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="none holds no picture"):
        seen(tmp_path / "none")
