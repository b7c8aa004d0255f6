"""Clips made here: Aff-Wild2's layout on disk, labels that are true of what is shown, the same again from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
import simplejpeg

from common.errors import StoreError, UsageError
from common.labels import ACTION_UNITS, EXPRESSIONS
from ingest.datasets import affwild2
from ingest.datasets.dataset import Tally
from ingest.synth import actionunits, facewarp, portraits
from ingest.synth import clips as synth

SECONDS = 1.0
FRAMES = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "clips"
    synth.write(out, videos=4, seconds=SECONDS, seed=7, workers=2)
    return out


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_layout_is_aff_wild2s(made):
    names = ["astronaut_000", "astronaut_002", "hopper_001", "hopper_003"]
    assert sorted(path.stem for path in (made / "videos").glob("*.mp4")) == names
    assert sorted(path.name for path in (made / "cropped_aligned").iterdir()) == names
    headers = {
        "VA_Estimation_Challenge": "valence,arousal",
        "EXPR_Recognition_Challenge": "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
        "AU_Detection_Challenge": "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26",
    }
    for task, header in headers.items():
        folder = made / "6th_ABAW_Annotations" / task
        assert sorted(path.stem for path in (folder / "Train_Set").glob("*.txt")) == ["astronaut_000", "hopper_001"]
        assert sorted(path.stem for path in (folder / "Validation_Set").iterdir()) == ["astronaut_002", "hopper_003"]
        for path in folder.glob("*/*.txt"):
            lines = path.read_text().splitlines()
            assert lines[0] == header
            assert len(lines) == 1 + FRAMES


def test_the_videos_are_h264_of_the_stated_size_and_rate(made):
    for path in (made / "videos").iterdir():
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (320, 240, 30)
            times = [frame.time for frame in container.decode(video=0)]
        assert times == pytest.approx([index / 30 for index in range(FRAMES)])


def test_every_frame_has_its_aligned_crop_with_the_eyes_where_arcface_wants_them(made):
    for clip in synth.plan(4, SECONDS, 7):
        crops = sorted((made / "cropped_aligned" / clip.name).iterdir())
        assert [path.name for path in crops] == [f"{number:05d}.jpg" for number in range(1, FRAMES + 1)]
        frame, landmarks = next(synth.frames(clip))
        crop = simplejpeg.decode_jpeg(crops[0].read_bytes())
        assert crop.shape == (112, 112, 3)
        scale = np.linalg.norm(landmarks[1] - landmarks[0]) / (73.5318 - 38.2946)
        eye = cv2.getRectSubPix(cv2.GaussianBlur(frame, (0, 0), scale), (1, 1), landmarks[0].tolist())[0, 0]
        there = cv2.getRectSubPix(cv2.GaussianBlur(crop, (0, 0), 1), (9, 9), (38.3, 51.7)).reshape(-1, 3)
        assert np.abs(there.astype(int) - eye).max(1).min() < 25


def test_the_encoded_frames_are_the_ones_that_were_drawn(made):
    clip = synth.plan(4, SECONDS, 7)[1]
    drawn = [frame for frame, _ in synth.frames(clip)]
    shown = decoded(made / "videos" / f"{clip.name}.mp4")
    assert len(shown) == len(drawn) == FRAMES
    for one, other in zip(drawn, shown, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 6


def test_the_readers_rows_are_the_scripts_truth_or_not_annotated(made):
    labels = pa.concat_tables(affwild2.read(made, Tally())).to_pylist()
    assert len(labels) == 4 * FRAMES
    for clip in synth.plan(4, SECONDS, 7):
        rows = [row for row in labels if row["video"] == clip.name]
        intensities = clip.intensities()
        assert [row["frame_index"] for row in rows] == list(range(FRAMES))
        assert {row["split_va"] for row in rows} == {"validation" if clip.held_out else "train"}
        affect = actionunits.valence_arousal(intensities)
        for row, strengths, (valence, arousal), code in zip(
            rows, intensities, affect, actionunits.expression(intensities), strict=True
        ):
            if row["valence"] is not None:
                assert (row["valence"], row["arousal"]) == pytest.approx((valence, arousal), abs=6e-4)
            assert row["expression"] in (None, EXPRESSIONS[code])
            marks = [row[unit] for unit in ACTION_UNITS]
            assert marks in ([None] * 12, [int(strength >= 0.3) for strength in strengths])
    for column in ("valence", "expression", "au01"):
        unmarked = np.mean([row[column] is None for row in labels])
        assert 0 < unmarked < 0.3


def test_the_same_seed_makes_the_same_files(made, tmp_path):
    synth.write(tmp_path / "again", videos=4, seconds=SECONDS, seed=7, workers=1)
    files = sorted(path.relative_to(made) for path in made.rglob("*.*"))
    assert len(files) == 4 * (1 + 3 + FRAMES)
    for path in files:
        assert (made / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path


def test_another_seed_another_split_and_another_number_each_make_another_clip():
    base = synth.Clip(number=0, frames=3, seed=0, held_out=False)
    others = [
        synth.Clip(number=0, frames=3, seed=1, held_out=False),
        synth.Clip(number=0, frames=3, seed=0, held_out=True),
        synth.Clip(number=2, frames=3, seed=0, held_out=False),
    ]
    first, _ = next(synth.frames(base))
    for other in others:
        frame, _ = next(synth.frames(other))
        assert np.abs(first.astype(int) - frame).mean() > 5


@pytest.mark.parametrize("videos", [30, 31, 20, 7, 3, 2, 1])
def test_a_fifth_of_the_pairs_is_held_out_and_both_portraits_stay_together(videos):
    clips = synth.plan(videos, 1.0, 0)
    assert len({clip.name for clip in clips}) == videos
    pairs = [clips[start : start + 2] for start in range(0, videos, 2)]
    for pair in pairs:
        assert [clip.portrait for clip in pair] == ["astronaut", "hopper"][: len(pair)]
        assert len({clip.held_out for clip in pair}) == 1
    held_out = sum(pair[0].held_out for pair in pairs)
    assert not pairs[0][0].held_out
    assert held_out == (0 if len(pairs) == 1 else -(-len(pairs) // 5) - (len(pairs) % 5 == 1))


def test_some_clips_are_longer_than_two_overlapping_windows_unless_a_length_is_asked_for():
    made = synth.plan(30, None, 0)
    long = [clip for clip in made if clip.frames >= 300 + 200]
    assert {clip.held_out for clip in long} == {True, False}
    assert len(long) < len(made) / 2
    assert {clip.frames for clip in synth.plan(30, 2.0, 0)} == {60}


@pytest.mark.parametrize(("videos", "seconds"), [(0, 1.0), (1, 0.0), (-3, 1.0)])
def test_nothing_to_make_is_refused(tmp_path, videos, seconds):
    with pytest.raises(UsageError, match="more than 0"):
        synth.write(tmp_path / "out", videos, seconds, 0)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        synth.write(tmp_path, 1, 1.0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="name another folder"):
        synth.write(tmp_path / "file" / "out", 1, 1.0, 0)


@pytest.mark.parametrize("name", portraits.PORTRAITS)
def test_a_unit_at_full_strength_carries_the_skin_as_far_as_stated(name):
    face = portraits.load(name)
    actor = facewarp.Actor(face)
    _, rest = actor.pose(np.zeros(12), np.zeros(2))
    _, smiling = actor.pose(np.eye(12)[ACTION_UNITS.index("au12")], np.zeros(2))
    moved = (smiling - rest) / facewarp.SCALE
    assert moved[:3] == pytest.approx(0, abs=0.02)
    assert moved[3] == pytest.approx([-0.13, -0.12], abs=0.02)
    assert moved[4] == pytest.approx([0.13, -0.12], abs=0.02)


@pytest.mark.parametrize("name", portraits.PORTRAITS)
@pytest.mark.parametrize("unit", ["au01", "au02"])
def test_raised_brows_leave_the_eyes_alone(name, unit):
    actor = facewarp.Actor(portraits.load(name))
    rest = actor.pose(np.zeros(12), np.zeros(2))[0][..., :3].astype(int).copy()
    canvas, landmarks = actor.pose(np.eye(12)[ACTION_UNITS.index(unit)], np.zeros(2))
    change = np.abs(canvas[..., :3].astype(int) - rest).mean(-1)
    for x, y in landmarks[:2].round().astype(int):
        eye = change[y - 5 : y + 6, x - 12 : x + 13]
        brow = change[y - 32 : y - 10, x - 25 : x + 26]
        assert eye.mean() < 4 < brow.mean()


@pytest.mark.parametrize("name", portraits.PORTRAITS)
def test_parted_lips_show_the_inside_of_the_mouth_and_closed_ones_do_not(name):
    actor = facewarp.Actor(portraits.load(name))
    for intensities, dark in ((np.zeros(12), False), (np.eye(12)[ACTION_UNITS.index("au26")], True)):
        canvas, landmarks = actor.pose(intensities, np.zeros(2))
        x, y = landmarks[3:].mean(0).round().astype(int)
        column = canvas[y - 4 : y + 16, x, :3]
        assert bool((column.max(1) < 60).sum() >= 3) == dark


@pytest.mark.parametrize("name", portraits.PORTRAITS)
def test_a_mirrored_face_moves_as_the_mirror_shows(name):
    face = portraits.load(name)
    strengths = np.linspace(0, 0.6, 12)
    canvas, landmarks = facewarp.Actor(face).pose(strengths, np.array([0.05, 0.02]))
    mirrored, there = facewarp.Actor(facewarp.mirrored(face)).pose(strengths, np.array([-0.05, 0.02]))
    assert np.abs(canvas[:, ::-1].astype(int) - mirrored).mean() < 0.3
    width = canvas.shape[1]
    assert there[[1, 0, 2, 4, 3]] == pytest.approx(
        np.stack([width - 1 - landmarks[:, 0], landmarks[:, 1]], 1), abs=0.05
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads of torch on a busy machine are many times slower than one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.soak
def test_mtcnn_finds_the_face_where_it_was_drawn_in_every_frame(tmp_path, one_thread):
    from facenet_pytorch import MTCNN

    finder = MTCNN(min_face_size=40, device="cpu")
    clips = synth.plan(8, 4 / 3, 3)
    synth.write(tmp_path / "clips", 8, 4 / 3, 3)
    for clip in clips:
        truth = [landmarks for _, landmarks in synth.frames(clip)][::5]
        shown = decoded(tmp_path / "clips" / "videos" / f"{clip.name}.mp4")[::5]
        _, _, found = finder.detect(shown, landmarks=True)
        for true, points in zip(truth, found, strict=True):
            assert points is not None, clip.name
            off = np.linalg.norm(points[0].astype(float) - true, axis=1) / np.linalg.norm(true[1] - true[0])
            assert off.mean() < 0.25, clip.name
