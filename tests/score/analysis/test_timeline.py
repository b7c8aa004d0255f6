"""What is drawn of a video: the values, times, labels and faces of its tracks, as they were put into the lake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scored_lakes import FPS, batch, put_faces, put_labels, put_scores

from common.errors import UsageError
from common.lake.layout import Lake
from score.analysis import timeline
from score.analysis.sql import connect
from score.analysis.timeline import FACES_SHOWN, MOST_POINTS, MOST_TRACKS, Timeline

URI = "/v/a.mp4"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def read(lake: Lake, name: str = "a.mp4") -> Timeline:
    with connect(lake) as tables:
        return timeline.read(tables, name)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_short_video_has_a_stretch_for_each_face(where: str, lake: Lake, request: pytest.FixtureRequest) -> None:
    lake = lake if where == "local" else Lake(request.getfixturevalue("s3_url"))
    valence = np.arange(7) / 10
    put_scores(lake, URI, batch({0: [1, 2, 5], 3: [2, 3, 4, 5]}, 8), {"valence": valence})
    put_scores(lake, "/v/b.mp4", batch({0: [0]}, 4), {"valence": [-1]})
    put_scores(lake, URI, batch({0: [0]}, 4), {"valence": [-1]}, model="m-other", archive="other")
    with connect(lake) as tables:
        found = timeline.read(tables, "a.mp4", "m-1a-2b")
    assert (found.start_s, found.end_s) == (0.5, pytest.approx(0.82))
    assert (found.frames, found.frames_a_point, found.left_out) == (8, 1, 0)
    assert [(track.track_id, track.frames) for track in found.tracks] == [(0, 3), (3, 4)]
    one, other = (track.points for track in found.tracks)
    # The rows are in order of frames: those of track 0 are the first, the second and the sixth.
    np.testing.assert_allclose(one["valence"], valence[[0, 1, 5]], atol=1e-6)
    np.testing.assert_allclose(one["start_s"], 0.5 + np.array([1, 2, 5]) / FPS)
    np.testing.assert_allclose(one["end_s"], 0.5 + np.array([2, 3, 6]) / FPS)
    np.testing.assert_allclose(other["valence"], valence[[2, 3, 4, 6]], atol=1e-6)


def test_a_column_that_the_model_leaves_null_is_not_there(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0, 1]}, 2), {"expr_fear": [0.2, 0.4], "expr_other": [0.8, 0.6]})
    (track,) = read(lake).tracks
    assert {"expr_fear", "expr_other"} <= set(track.points)
    assert not {"valence", "expr_neutral", "au01", "true_valence", "true_expression"} & set(track.points)


def test_stretches_of_a_long_video_are_means_over_neighbouring_frames(lake: Lake) -> None:
    count = 4 * MOST_POINTS - 1
    present = [frame for frame in range(count) if frame % 10]
    valence = np.random.default_rng(1).uniform(-1, 1, count).astype(np.float32)
    put_scores(lake, URI, batch({0: present}, count), {"valence": valence[present]})
    found = read(lake)
    (track,) = found.tracks
    assert (found.frames_a_point, len(track.points)) == (4, MOST_POINTS)
    kept = np.where(np.arange(count + 1) % 10, np.append(valence, np.nan), np.nan).reshape(-1, 4)
    np.testing.assert_allclose(track.points["valence"], np.nanmean(kept, axis=1), atol=1e-6)
    # Stretch 5 begins with frame 20, which has no face.
    assert track.points["start_s"][5] == pytest.approx(0.5 + 21 / FPS)
    assert track.points["end_s"][5] == pytest.approx(0.5 + 24 / FPS)


def test_frames_that_were_sampled_are_stretches_of_their_own(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0, 1, 3]}, 4, every=5), {"valence": [0, 0.1, 0.2]})
    points = read(lake).tracks[0].points
    assert ((points["start_s"] - 0.5) * FPS).round(6).tolist() == [0, 5, 15]
    assert ((points["end_s"] - 0.5) * FPS).round(6).tolist() == [5, 10, 20]


def test_of_many_tracks_those_of_most_frames_are_kept_in_their_order(lake: Lake) -> None:
    lengths = [5, 1, 7, 2, 9, 3, 8, 4, 6]
    tracks = {track: list(range(length)) for track, length in enumerate(lengths)}
    put_scores(lake, URI, batch(tracks, 9), {"valence": np.zeros(sum(lengths))})
    found = read(lake)
    assert [track.track_id for track in found.tracks] == [0, 2, 4, 6, 7, 8]
    assert (len(found.tracks), found.left_out) == (MOST_TRACKS, 3)


def test_a_video_without_a_face_cannot_be_drawn(lake: Lake) -> None:
    put_scores(lake, URI, batch({}, 5), {})
    with pytest.raises(UsageError, match=r"no face was found in a\.mp4"):
        read(lake)


def test_labels_are_beside_the_faces_that_they_are_of(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0, 1, 2], 1: [2]}, 4), {"valence": np.zeros(4)})
    rows = [
        {"frame_index": 0, "valence": 0.25, "expression": "fear", "au01": 1},
        {"frame_index": 1, "arousal": 0.5},
        {"frame_index": 2, "valence": 1.0},  # two faces: nothing says which
        {"frame_index": 3, "valence": 1.0},  # no face
    ]
    put_labels(lake, "a", rows)
    put_labels(lake, "b", [{"frame_index": 1, "valence": -1.0}])
    found = read(lake)
    points = found.tracks[0].points
    np.testing.assert_array_equal(points["true_valence"], [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(points["true_arousal"], [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(points["true_au01"], [1, np.nan, np.nan])
    assert points["true_expression"].tolist()[0] == "fear"
    assert "true_valence" not in found.tracks[1].points
    assert (found.datasets, found.held_out) == (("synth",), False)


def test_labels_of_one_person_of_two_are_beside_the_track_on_that_side(lake: Lake) -> None:
    put_scores(lake, URI, batch({4: [0, 1], 2: [0, 1]}, 2), {"valence": np.zeros(4)})
    put_labels(lake, "a", [{"frame_index": 0, "subject": "right", "valence": 0.75}])
    left, right = read(lake).tracks
    assert (left.track_id, right.track_id) == (2, 4)
    assert "true_valence" not in left.points
    assert right.points["true_valence"].tolist()[0] == 0.75


def test_a_video_is_held_out_if_all_its_labels_are_of_the_validation_set(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0]}, 1), {"valence": [0]})
    put_labels(lake, "a", [{"frame_index": 0, "valence": 0.5}], split="validation")
    assert read(lake).held_out
    put_scores(lake, "/v/b.mp4", batch({0: [0]}, 1), {"valence": [0]})
    put_labels(lake, "b", [{"frame_index": 0, "valence": 0.5, "split_au": "train"}], split="validation")
    assert not read(lake, "b.mp4").held_out


def test_labels_of_a_name_that_two_videos_have_are_of_neither(lake: Lake) -> None:
    put_labels(lake, "a", [{"frame_index": 0, "valence": 0.5}])
    for uri in (URI, "/v/a.mkv"):
        put_scores(lake, uri, batch({0: [0]}, 1), {"valence": [0]})
    found = read(lake)
    assert found.datasets == ()
    assert "true_valence" not in found.tracks[0].points


def test_stored_faces_are_shown_where_they_were_scored_whatever_their_track_was_called(lake: Lake) -> None:
    count = 2 * FACES_SHOWN
    scored = batch({0: list(range(count)), 1: list(range(count // 2))}, count)
    put_scores(lake, URI, scored, {"expr_fear": np.ones(len(scored.row))})
    # Stored under each other's numbers: track 1 has the place that track 0 has in the scores.
    stored = batch({0: list(range(count // 2)), 1: list(range(count))}, count, shade=100)
    stored.box[:, [0, 2]] = 30 - stored.box[:, [2, 0]]
    put_faces(lake, URI, stored)
    one, other = read(lake).tracks
    assert [slot for slot, _, _ in one.faces] == list(range(FACES_SHOWN))
    assert [slot for slot, _, _ in other.faces] == list(range(FACES_SHOWN // 2))
    assert {int(crop.mean().round()) for _, crop, _ in one.faces} == {101}
    assert {int(crop.mean().round()) for _, crop, _ in other.faces} == {100}
    assert {expression for _, _, expression in one.faces} == {"fear"}


def test_a_stored_face_elsewhere_in_the_frame_is_not_shown(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0]}, 1), {"valence": [0]})
    put_faces(lake, URI, batch({1: [0]}, 1))
    assert read(lake).tracks[0].faces == []
