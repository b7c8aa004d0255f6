"""Tracks: stable, of one person each, numbered by first appearance, ended by cuts and by time, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from track_truth import IouTracker, KalmanTracker, judged

from ingest.detect.detector import Faces
from ingest.track import MAX_TRACKS, NO_TRACK, Tracker, TrackerOptions, closeness


def faces(*boxes: tuple[float, float, float], scores: list[float] | None = None) -> Faces:
    """Square faces, each by its centre and side."""
    array = np.array([[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for x, y, s in boxes], np.float32).reshape(-1, 4)
    certain = np.array([0.99] * len(array) if scores is None else scores, np.float32)
    return Faces(array, np.zeros((len(array), 5, 2), np.float32), certain)


def alike(found: Faces) -> np.ndarray:
    """Faces that all look the same."""
    return np.tile(np.eye(1, 4, dtype=np.float32), (len(found), 1))


def run(frames: list[Faces], fps: float = 25.0, **options: float) -> list[list[int]]:
    tracker = Tracker(TrackerOptions(**options))
    return [tracker.update(i / fps, each, alike(each)).tolist() for i, each in enumerate(frames)]


def look(person: int, turned: float = 0.0) -> np.ndarray:
    """How a person looks: different people have nothing in common; turned by an angle, one looks like its cosine."""
    found = np.zeros(100, np.float32)
    found[2 * person], found[2 * person + 1] = np.cos(turned), np.sin(turned)
    return found


def follow(scene: list[dict[int, tuple[float, float, float]]], **options: float) -> list[dict[int, int]]:
    """scene: in each frame person -> face, all of them looking different -> in each frame person -> track."""
    tracker = Tracker(TrackerOptions(**options))
    found = []
    for i, people in enumerate(scene):
        seen = np.stack([look(person) for person in people]) if people else np.zeros((0, 100), np.float32)
        ids = tracker.update(i / 25, faces(*people.values()), seen).tolist()
        found.append(dict(zip(people, ids, strict=True)))
    return found


def test_a_moving_face_is_one_track() -> None:
    assert run([faces((50 + 8 * i, 60, 40)) for i in range(30)]) == [[0]] * 30


def test_ids_are_numbered_by_first_appearance_and_follow_the_faces_not_their_order() -> None:
    a, b, c = (50, 50, 40), (200, 50, 40), (120, 150, 30)
    assert run([faces(), faces(b), faces(a, b), faces(b, a), faces(c, a, b)]) == [[], [0], [1, 0], [0, 1], [2, 1, 0]]


def test_faces_that_pass_each_other_keep_their_tracks() -> None:
    frames = [faces((40 + 10 * i, 100, 60), (240 - 10 * i, 145, 60)) for i in range(21)]
    assert run(frames) == [[0, 1]] * 21


def test_two_faces_that_compete_for_a_track_are_paired_best_in_all() -> None:
    # The first face alone would take track 1, and leave the second face none within reach.
    assert run([faces((100, 100, 50), (124, 100, 50)), faces((113, 100, 50), (148, 100, 50))])[1] == [0, 1]


def test_a_face_that_passes_where_another_was_lost_keeps_its_own_track() -> None:
    standing, walking = (100, 100, 60), [(x, 100, 60) for x in range(300, 90, -10)]
    frames = [faces(standing, walking[0]), *[faces(face) for face in walking[1:]], faces(walking[-1], (290, 100, 60))]
    assert run(frames) == [[0, 1], *[[1]] * 20, [1, 2]]


def test_a_face_lost_for_less_than_the_gap_goes_on_and_for_more_begins_anew() -> None:
    face = (80, 80, 50)
    for lost, expected in ((24, [0]), (25, [1])):
        assert run([faces(face), *[faces()] * lost, faces(face)], fps=25, max_gap_s=1.0)[-1] == expected


def test_the_gap_is_of_seconds_not_frames_and_sampled_frames_may_lie_farther_apart() -> None:
    tracker = Tracker(TrackerOptions(max_gap_s=1.0))
    face = faces((80, 80, 50))
    assert [tracker.update(i * 3.0, face, alike(face)).tolist() for i in range(4)] == [[0]] * 4
    tracker.update(12.0, faces(), alike(faces()))
    assert tracker.update(15.0, face, alike(face)).tolist() == [1]


def test_a_cut_ends_every_track() -> None:
    tracker, face = Tracker(TrackerOptions()), faces((80, 80, 50))
    assert [tracker.update(i / 25, face, alike(face), cut=i == 2).tolist() for i in range(4)] == [[0], [0], [1], [1]]


def test_a_face_elsewhere_or_of_another_size_is_another_track() -> None:
    assert run([faces((100, 100, 50)), faces((140, 100, 50))])[1] == [1]
    assert run([faces((100, 100, 50)), faces((100, 100, 110))])[1] == [1]


def test_an_unsure_face_goes_on_with_a_track_but_begins_none() -> None:
    unsure, sure = [0.75], [0.95]
    face = (80, 80, 50)
    frames = [faces(face, scores=unsure), faces(face, scores=sure), faces(face, scores=unsure)]
    assert run(frames, new_score=0.9) == [[NO_TRACK], [0], [0]]


def test_another_person_at_the_same_place_is_another_track() -> None:
    """As after a cut that was not found."""
    place = (100, 100, 60)
    assert follow([{0: place}] * 5 + [{1: place}] * 5) == [{0: 0}] * 5 + [{1: 1}] * 5


def test_a_head_that_turns_bit_by_bit_stays_one_track_until_it_looks_like_another() -> None:
    tracker, face = Tracker(TrackerOptions(min_likeness=0.6)), faces((100, 100, 60))
    slowly = [tracker.update(i / 25, face, look(0, angle)[None]).tolist() for i, angle in enumerate(np.arange(20) / 10)]
    assert slowly == [[0]] * 20
    assert tracker.update(1.0, face, look(0, 1.9 + np.arccos(0.5))[None]).tolist() == [1]


def test_a_face_that_looks_different_for_a_moment_gets_its_track_back() -> None:
    """As in a flash."""
    place = (100, 100, 60)
    assert follow([{0: place}] * 5 + [{1: place}] + [{0: place}] * 3)[-1] == {0: 0}


def test_one_who_steps_in_front_does_not_get_the_track_of_the_one_he_hides() -> None:
    standing = (200, 100, 60)
    before = [{0: standing, 1: (x, 110, 70)} for x in range(20, 180, 20)]
    hidden = [{1: (x, 110, 70)} for x in (190, 200, 200, 200, 210)]
    after = [{0: standing, 1: (x, 110, 70)} for x in range(240, 400, 20)]
    assert [people for people in follow(before + hidden + after) if people.items() - {(0, 0), (1, 1)}] == []


def test_people_who_cross_at_one_height_keep_their_tracks_though_one_hides_the_other() -> None:
    scene = []
    for i in range(41):
        a, b = 40 + 8 * i, 360 - 8 * i
        people = {0: (a, 100, 50), 1: (b, 100, 54)}
        if abs(a - b) < 30:
            del people[0]
        scene.append(people)
    assert [people for people in follow(scene) if people.items() - {(0, 0), (1, 1)}] == []


@pytest.mark.parametrize("speed", [0, 4, 9, -12])
def test_a_man_who_is_hidden_for_nine_frames_while_he_walks_on_keeps_his_track(speed: int) -> None:
    walk = [{0: (300 + speed * i, 100, 60)} for i in range(30)]
    assert follow(walk[:12] + [{}] * 9 + walk[21:])[-9:] == [{0: 0}] * 9


def test_a_face_may_jump_farther_the_longer_it_was_lost_but_not_without_bound() -> None:
    def found_at(shift: float, lost: int) -> int:
        return follow([{0: (300, 100, 60)}, *[{}] * lost, {0: (300 + shift, 100, 60)}])[-1][0]

    assert [found_at(30, 0), found_at(40, 0)] == [0, 1]
    assert [found_at(60, 4), found_at(100, 4)] == [0, 1]
    assert [found_at(100, 20), found_at(120, 20)] == [0, 1]


def crowd(rng: np.random.Generator, people: int = 40, frames: int = 60) -> list[dict[int, tuple[float, float, float]]]:
    """People who walk through one another; who is hidden by a nearer one, or not found for a moment, is missing."""
    place, speed = rng.uniform(0, 1, (people, 2)) * (1900, 1000), rng.normal(0, 5, (people, 2))
    size = rng.uniform(40, 90, people)
    scene = []
    for _ in range(frames):
        place = place + speed + rng.normal(0, 1, place.shape)
        seen: dict[int, tuple[float, float, float]] = {}
        for person in np.argsort(-size).tolist():
            hidden = any(np.hypot(*(place[person] - place[other])) < 0.5 * size[other] for other in seen)
            if not hidden and rng.uniform() > 0.05:
                seen[person] = (*place[person], size[person])
        scene.append(seen)
    return scene


def test_in_a_crowd_ids_change_less_often_than_with_overlap_alone_or_a_kalman_filter() -> None:
    scene = crowd(np.random.default_rng(5))
    people = [np.array(list(frame)) for frame in scene]
    ours = judged(people, [np.array(list(frame.values())) for frame in follow(scene)])
    rivals = []
    for tracker in (IouTracker(), KalmanTracker()):
        rivals.append(judged(people, [tracker.update(faces(*frame.values()).boxes) for frame in scene]))
    assert ours.faces > 2000
    assert (ours.switches, ours.mixed) == (0, 0)
    assert ours.idf1 == 1
    assert min(rival.switches for rival in rivals) > 0


def test_state_is_bounded_also_when_time_stands_still() -> None:
    tracker = Tracker(TrackerOptions())
    rng = np.random.default_rng(0)
    for _ in range(60):
        centres = rng.uniform(0, 1e5, (20, 2))
        crowd = faces(*[(x, y, 20) for x, y in centres])
        tracker.update(0.0, crowd, alike(crowd))
        assert len(tracker._tracks) <= MAX_TRACKS


def test_time_that_runs_backwards_does_no_harm() -> None:
    tracker, face = Tracker(TrackerOptions()), faces((80, 80, 50))
    times = [5.0, 4.9, -3.0, 5.1, 5.1]
    assert [tracker.update(time, face, alike(face)).tolist() for time in times] == [[0]] * 5


@given(st.integers(0, 2**32 - 1))
def test_every_face_has_one_track_whatever_the_order_of_the_list(seed: int) -> None:
    tracker, shuffled = Tracker(TrackerOptions(new_score=0)), Tracker(TrackerOptions(new_score=0))
    rng = np.random.default_rng(seed)
    seen, same = -1, {}
    for i in range(12):
        listed = faces(*rng.uniform((0, 0, 10), (200, 200, 80), (rng.integers(6), 3)))
        ids = tracker.update(i / 25, listed, alike(listed))
        assert len(set(ids.tolist())) == len(ids)
        new = ids[ids > seen]
        assert sorted(new.tolist()) == list(range(seen + 1, seen + 1 + len(new)))
        seen += len(new)
        order = rng.permutation(len(listed))
        for one, other in zip(
            ids[order].tolist(), shuffled.update(i / 25, listed[order], alike(listed)).tolist(), strict=True
        ):
            assert same.setdefault(one, other) == other  # new ones may be numbered in another order


@given(st.tuples(*[st.floats(0, 100), st.floats(0, 100), st.floats(5, 60)] * 2))
def test_closeness_is_overlap_plus_nearness_and_symmetric(numbers: tuple[float, ...]) -> None:
    a, b = faces(numbers[:3]).boxes, faces(numbers[3:]).boxes
    (x0, y0, x1, y1), (u0, v0, u1, v1) = a[0].tolist(), b[0].tolist()
    common = max(0.0, min(x1, u1) - max(x0, u0)) * max(0.0, min(y1, v1) - max(y0, v0))
    overlap = common / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common)
    sizes = x1 - x0, u1 - u0
    shift = np.hypot(x0 + x1 - u0 - u1, y0 + y1 - v0 - v1) / 2
    near = 1 - shift / (0.6 * sum(sizes) / 2)
    value = closeness(a, b, 0.6, 2.0)[0, 0]
    if abs(near) > 1e-4 and abs(max(sizes) / min(sizes) - 2) > 1e-4:
        fits = near > 0 and max(sizes) < 2 * min(sizes)
        assert value == pytest.approx(overlap + near if fits else 0.0, abs=1e-4)
    assert value == pytest.approx(closeness(b, a, 0.6, 2.0)[0, 0])
