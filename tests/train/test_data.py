from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from lakes import put_part

from common import windows
from common.bundle.manifest import Preprocess
from common.errors import UsageError
from common.join import Join, join_labels, shipped_names, subjects
from common.lake.format import KEY, claim
from common.lake.layout import Lake
from common.lake.schema import LABELS
from common.tasks import TASKS
from common.windows import Windowing
from train.data import faces as faces_
from train.data.augment import augment
from train.data.crops import CropReader
from train.data.faces import FaceSet
from train.data.order import batch_indices
from train.data.sources import DataOptions
from train.data.windows import cut, stretches, training_examples
from train.models.preprocess import denormalise, normalise, prepare
from train.stage_options import AugmentOptions

PLAIN = Preprocess(crop=(0, 0, 32), size=32)


def read(lake: Path | Lake, data: DataOptions | None = None, crop_size: int = 32) -> FaceSet:
    opened = lake if isinstance(lake, Lake) else Lake(str(lake))
    return faces_.read(CropReader(opened, PLAIN, crop_size), data or DataOptions())


# --- joining labels to faces


def seen(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    """(video, frame, track, centre)"""
    table = pd.DataFrame(rows, columns=["video", "frame_index", "track_id", "box_x0"])
    return table.assign(video_id=table["video"], box_x1=table["box_x0"] + 2)


def named(*rows: tuple[str, str | None, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["base_video", "subject", "frame_index"])


def test_a_label_belongs_to_the_only_face_of_its_frame() -> None:
    faces = seen(("a", 0, 0, 5), ("a", 1, 0, 5), ("b", 1, 3, 5))
    rows, join = join_labels(faces, named(("a", None, 1), ("b", None, 1), ("b", None, 2)))
    assert rows.tolist() == [-1, 0, 1]
    assert join == Join(labels=3, joined=2, without_face=1, ambiguous=0)


def test_a_label_of_one_of_several_faces_is_counted_and_never_guessed() -> None:
    faces = seen(("a", 0, 0, 5), ("a", 0, 1, 50), ("a", 1, 0, 5))
    rows, join = join_labels(faces, named(("a", None, 0), ("a", None, 1)))
    assert rows.tolist() == [-1, -1, 1]
    assert join == Join(labels=2, joined=1, without_face=0, ambiguous=1)


def test_left_and_right_are_the_tracks_on_those_sides_also_where_the_other_face_is_away() -> None:
    faces = seen(("a", 0, 7, 50), ("a", 0, 9, 5), ("a", 1, 7, 50), ("a", 2, 9, 5))
    labels = named(*((("a", side, frame)) for side in ("left", "right") for frame in range(3)))
    rows, join = join_labels(faces, labels)
    assert [labels["subject"][row] for row in rows] == ["right", "left", "right", "left"]
    assert [labels["frame_index"][row] for row in rows] == [0, 0, 1, 2]
    assert (join.joined, join.ambiguous, join.without_face) == (4, 2, 0)


def test_tracks_that_change_sides_are_neither_left_nor_right() -> None:
    faces = seen(("a", 0, 0, 5), ("a", 0, 1, 50), ("a", 1, 0, 50), ("a", 1, 1, 5))
    rows, join = join_labels(faces, named(("a", "left", 0), ("a", "right", 1)))
    assert rows.tolist() == [-1] * 4
    assert join.ambiguous == 2


def test_a_bare_name_beside_one_with_a_side_is_the_person_on_the_other_side() -> None:
    faces = seen(("a", 0, 7, 50), ("a", 0, 9, 5), ("a", 1, 7, 50))
    labels = named(("a", None, 0), ("a", None, 1), ("a", "right", 0), ("a", "right", 1), ("b", None, 0))
    labels["subject"] = subjects(labels)
    assert labels["subject"].tolist()[:4] == ["left", "left", "right", "right"]
    assert labels["subject"].isna().tolist() == [False] * 4 + [True]
    rows, join = join_labels(faces, labels)
    assert rows.tolist() == [2, 0, 3]
    assert (join.joined, join.ambiguous) == (3, 1)


def test_two_videos_of_one_name_get_no_labels() -> None:
    faces = seen(("a", 0, 0, 5), ("a", 1, 0, 5))
    faces["video_id"] = ["x", "y"]
    rows, join = join_labels(faces, named(("a", None, 0), ("a", None, 1)))
    assert rows.tolist() == [-1, -1]
    assert join.ambiguous == 2


def test_two_annotations_of_one_face_are_both_dropped() -> None:
    rows, join = join_labels(seen(("a", 0, 0, 5)), named(("a", None, 0), ("a", None, 0)))
    assert rows.tolist() == [-1]
    assert join.ambiguous == 2


def test_a_label_of_a_clip_is_that_of_each_frame_of_its_longest_track() -> None:
    faces = seen(("a", 0, 0, 5), ("a", 3, 0, 5), ("a", 4, 1, 5), ("a", 3, 1, 50), ("b", 0, 0, 5), ("c", 0, 0, 5))
    labels = named(("a", None, 0), ("b", None, 0), ("d", None, 0), ("c", None, 0)).astype({"frame_index": float})
    labels.loc[:2, "frame_index"] = np.nan
    rows, join = join_labels(faces, labels)
    assert rows.tolist() == [0, 0, -1, -1, 1, 3]
    assert join == Join(labels=4, joined=3, without_face=1, ambiguous=0)


# --- reading a lake


def test_a_shipped_face_is_named_as_far_as_its_datasets_names_reach() -> None:
    def names(uris: list[str], *videos: str) -> list[str]:
        return list(shipped_names(uris, pd.DataFrame({"video": videos})).values())

    assert names(["/d/7/a.b.jpg", "/d/x/7/c"], "7/a.b", "7/c") == ["7/a.b", "7/c"]
    assert names(["/d/cropped_aligned/30-30-1920x1080_left"], "30-30-1920x1080_left") == ["30-30-1920x1080_left"]
    assert names(["/d/v1.5"], "v1.5") == ["v1.5"]  # a folder, whose name has no extension


def test_a_lake_is_read_in_order_with_its_pictures_labels_and_splits(toy_lake: Path) -> None:
    faces = read(toy_lake, DataOptions(train="toy_[01]"))
    assert len(faces) == faces.join.joined == 420
    assert faces.names == tuple(f"toy_{n}" for n in range(6))
    assert faces.video.tolist() == np.repeat(np.arange(6), 70).tolist()
    assert faces.frame_index.tolist() == list(range(70)) * 6
    assert faces.images(np.arange(420)).shape == (420, 3, 32, 32)
    for task in TASKS:
        assert np.unique(faces.video[faces.train[task]]).tolist() == [0, 1]
        assert np.unique(faces.video[faces.validation[task]]).tolist() == [4, 5]
        assert np.array_equal(faces.annotated(task), faces.train[task] | faces.validation[task])
    assert np.unique(faces.video[faces.for_encoder()]).tolist() == [0, 1]
    # the brightest column of the picture says which expression was drawn
    y, x = np.divmod(faces.labels["expr"][:70], 4)
    for image, row, column in zip(faces.images(np.arange(70)), y, x, strict=True):
        assert image[:, 4 + 14 * row, 1 + 8 * column].mean() > 150


def test_frames_without_a_face_and_labels_without_a_frame_are_left_out(
    tmp_path: Path, make_lake: Callable, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> None:
    crop = crop_jpeg(np.full((32, 32, 3), 90, np.uint8))
    rows: list[dict[str, Any]] = [{"frame_index": 0, "track_id": 0, "crop": crop}, {"frame_index": 1}]
    rows += [{"frame_index": 2, "track_id": 0, "crop": crop, "face_status": "low_quality"}]
    labels = make_labels("a", 4, "train", valence=[0.1, 0.2, None, 0.4], arousal=[0.0, 0.0, None, 0.0])
    lake = make_lake(tmp_path, {"a": make_faces("a", rows)}, [labels])
    faces = read(lake)
    assert faces.frame_index.tolist() == [0, 2]
    np.testing.assert_allclose(faces.labels["va"], [[0.1, 0], [np.nan, np.nan]])
    assert faces.annotated("va").tolist() == [True, False]
    assert faces.labels["expr"].tolist() == [-1, -1]
    assert not faces.annotated("au").any()
    assert faces.join == Join(labels=3, joined=1, without_face=2, ambiguous=0)


def test_parts_of_a_commit_that_was_cut_off_are_not_read(
    tmp_path: Path, make_lake: Callable, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> None:
    rows = [{"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.full((32, 32, 3), 90, np.uint8))}]
    lake = make_lake(tmp_path, {name: make_faces(name, rows) for name in "ab"}, [make_labels("a", 1, "train")])
    next(lake.glob("_ledger/**/b.json")).unlink()
    assert read(lake).names == ("a",)


def test_no_video_that_validates_trains_what_it_validates(
    tmp_path: Path, make_lake: Callable, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> None:
    crop = crop_jpeg(np.full((32, 32, 3), 90, np.uint8))

    def face(track: int, x: float) -> dict[str, Any]:
        return {"frame_index": 0, "track_id": track, "crop": crop, "box_x0": x, "box_x1": x + 2}

    videos = {"couple": [face(0, 5), face(1, 50)], "mixed": [face(0, 5)], "plain": [face(0, 5)]}
    label = {"expression": ["fear"], "valence": [0.5], "arousal": [0.5]}
    labels = [
        make_labels("couple_left", 1, "train", **label),
        make_labels("couple_right", 1, "validation", **label),
        make_labels("mixed", 1, "train", **label, split_va=["validation"]),
        make_labels("plain", 1, "train", **label),
    ]
    lake = make_lake(tmp_path, {name: make_faces(name, rows) for name, rows in videos.items()}, labels)
    faces = read(lake)
    assert faces.withheld == ("couple", "mixed")
    assert faces.train["expr"].tolist() == [False, False, True, True]
    assert faces.validation["expr"].tolist() == [True, True, False, False]
    # of the two people only the one whose label is a validation label is measured
    assert faces.annotated("expr").tolist() == [False, True, True, True]
    assert faces.train["va"].tolist() == [False, False, False, True]
    assert faces.for_encoder().tolist() == [False, False, False, True]


def test_the_origin_of_the_faces_is_recorded(toy_lake: Path) -> None:
    faces = read(toy_lake)
    assert faces.origin["faces"] == "faces/schema=1/ingest=i-toy/archive=toy"
    assert faces.origin["dataset"] == "toy"
    assert len(faces.origin["labels_content"]) == 1
    assert faces.crops.digest == read(toy_lake, DataOptions(train="none")).crops.digest


def test_a_lake_without_faces_labels_or_a_clear_choice_is_refused_with_what_to_do(
    tmp_path: Path, toy_lake: Path, make_labels
) -> None:
    with pytest.raises(UsageError, match="there is no lake at"):
        read(tmp_path / "nowhere")
    begun = Lake(str(tmp_path / "begun"))
    claim(begun)
    with pytest.raises(UsageError, match="has no labels: run `mien label` first"):
        read(begun)
    for dataset in ("a", "b"):
        put_part(begun, "labels", "labels", make_labels("v", 1, "train"), keys={"dataset": dataset})
    with pytest.raises(UsageError, match=r"has labels of several datasets: set data\.dataset to one of a, b"):
        read(begun)
    lake = Lake(str(toy_lake))
    with pytest.raises(UsageError, match=r"no labels of the dataset other: set data\.dataset to one of toy"):
        read(lake, DataOptions(dataset="other"))
    with pytest.raises(UsageError, match="archive=toy"):
        read(lake, DataOptions(archive="other"))
    with pytest.raises(UsageError, match=r"crop\.size is 112"):
        read(lake, DataOptions(), 112)


def test_of_found_faces_and_shipped_crops_of_one_archive_a_recipe_chooses(
    tmp_path: Path, make_faces: Callable, make_labels: Callable, crop_jpeg: Callable
) -> None:
    lake = Lake(str(tmp_path))
    put_part(lake, "labels", "labels", make_labels("v", 1, "train", valence=[0.5], arousal=[0]), keys={"dataset": "d"})
    for level, ingest in ((40, "i-1"), (200, "shipped-1")):
        rows = [{"frame_index": 0, "track_id": 0, "crop": crop_jpeg(np.full((32, 32, 3), level, np.uint8))}]
        put_part(lake, "faces", "u1", make_faces("v", rows), n=0, keys={"ingest": ingest, "archive": "main"})
    with pytest.raises(UsageError, match=r"data\.archive, data\.faces and data\.ingest must name one set"):
        read(lake)
    for kind, level in (("ingested", 40), ("shipped", 200)):
        faces = read(lake, DataOptions(faces=kind))
        assert faces.images(np.array([0])).max() == level
        assert faces.join.joined == 1


def test_a_lake_of_an_earlier_version_is_not_trained_on(tmp_path: Path, make_faces, make_lake) -> None:
    lake = Lake(str(make_lake(tmp_path / "lake", {"a": make_faces("a", [{"frame_index": 0}])}, [LABELS.empty_table()])))
    lake.store.delete([KEY])
    with pytest.raises(UsageError, match="earlier version of mien"):
        read(lake)


# --- windows


def face_set(times: list[float], tracks: list[int], labels: list[int] | None = None) -> FaceSet:
    n = len(times)
    return FaceSet(
        crops=None,  # type: ignore[arg-type]
        picture=np.arange(n),
        names=("a",),
        video=np.zeros(n, np.int32),
        track_id=np.array(tracks, np.int32),
        frame_index=np.rint(np.array(times) * 30).astype(np.int32),
        time_s=np.array(times),
        labels={"expr": np.array(labels or [0] * n)},
        train={"expr": np.ones(n, bool)},
        validation={},
        withheld=(),
        join=Join(0, 0, 0, 0),
        annotation=np.full(n, -1, np.int32),
        expression=np.array(labels or [0] * n),
        of_clip=np.zeros(n, bool),
        faceless=None,  # type: ignore[arg-type]
        stated={},
        fold=0,
        source=None,  # type: ignore[arg-type]
        origin={},
    )


def test_every_face_is_in_a_window_once_labelled_and_windows_do_not_mix_tracks() -> None:
    faces = face_set([*(np.arange(47) / 30), *(np.arange(5) / 30)], [0] * 47 + [1] * 5)
    found = training_examples(faces, "expr", Windowing(window=20, stride=15))
    assert found.rows.shape == (4, 20)
    assert (found.valid == found.labelled).all()
    assert set(found.rows[found.valid].tolist()) == set(range(52))
    for rows, valid in zip(found.rows, found.valid, strict=True):
        assert len(set(faces.track_id[rows[valid]].tolist())) == 1


def test_windows_without_a_label_are_not_trained_on() -> None:
    bystander = face_set([*(np.arange(40) / 30)] * 2, [0] * 40 + [1] * 40, [3] * 10 + [-1] * 70)
    found = training_examples(bystander, "expr", Windowing(window=20, stride=20))
    assert found.rows.tolist() == [list(range(20))]
    assert found.labelled.tolist() == [[True] * 10 + [False] * 10]


def test_a_head_without_windows_is_trained_on_each_annotated_face_once() -> None:
    faces = face_set([*(np.arange(40) / 30)] * 2, [0] * 40 + [1] * 40, [3] * 10 + [-1] * 65 + [5] * 5)
    found = training_examples(faces, "expr", None)
    assert found.rows.tolist() == [[row] for row in (*range(10), *range(75, 80))]
    assert found.valid.all()
    assert found.labelled.all()


@pytest.mark.parametrize("gaps", ["repeat", "mask"])
def test_a_gap_repeats_the_last_face_unlabelled_or_is_masked(gaps: str) -> None:
    faces = face_set([0, 1 / 30, 5 / 30, 6 / 30], [0] * 4)
    windowing = Windowing(window=9, stride=9, gaps=gaps)  # type: ignore[arg-type]
    (stretch,) = stretches(faces, np.ones(4, bool), windowing)
    found = cut(stretch, windowing)
    assert found.rows[0, :7].tolist() == [0, 1, 1, 1, 1, 2, 3]
    assert found.labelled[0].tolist() == [True, True, False, False, False, True, True, False, False]
    assert found.valid[0].tolist() == (found.labelled[0].tolist() if gaps == "mask" else [True] * 7 + [False] * 2)


def test_features_cut_by_these_rows_are_those_that_scoring_cuts() -> None:
    rng = np.random.default_rng(0)
    frames = np.flatnonzero(rng.random(130) < 0.7)
    faces = face_set((frames / 25).tolist(), [0] * len(frames))
    windowing = Windowing(window=40, stride=30, gaps="mask", fps=30)
    (stretch,) = stretches(faces, np.ones(len(frames), bool), windowing)
    features = rng.normal(size=(len(frames), 3)).astype(np.float32)
    mine = cut(stretch, windowing)
    inputs = np.where(mine.valid[..., None], features[mine.rows], 0)
    source, own = windows.hold(windows.points(windows.positions(faces.time_s, faces.time_s[0], 30)))
    theirs, valid = windows.cut(features[source], own, 40, 30)
    np.testing.assert_array_equal(inputs, theirs)
    np.testing.assert_array_equal(mine.valid, valid)


def test_a_jump_of_the_clock_ends_a_stretch() -> None:
    faces = face_set([0, 1 / 30, 4000, 4000 + 1 / 30], [0] * 4)
    found = list(stretches(faces, np.ones(4, bool), Windowing(window=30, stride=30)))
    assert [each.faces.tolist() for each in found] == [[0, 1], [2, 3]]


# --- order, preprocessing and augmentation


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own() -> None:
    steps = np.concatenate([batch_indices(50, 8, step, seed=3) for step in range(25)])
    epochs = steps.reshape(4, 50)
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs.tolist())
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(batch_indices(50, 8, 17, seed=3), steps[17 * 8 : 18 * 8])
    assert not np.array_equal(batch_indices(50, 8, 17, seed=4), steps[17 * 8 : 18 * 8])


def test_an_epoch_of_full_batches_shows_no_example_twice() -> None:
    epochs = [np.concatenate([batch_indices(50, 8, 6 * n + k, 3, drop_last=True) for k in range(6)]) for n in range(4)]
    assert all(len(set(epoch.tolist())) == 48 for epoch in epochs)
    assert len({frozenset(range(50)) - frozenset(epoch.tolist()) for epoch in epochs}) > 1  # each leaves out others


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert np.bincount(batch_indices(3, 10, 0, seed=0), minlength=3).min() >= 3


def test_a_crop_is_cut_made_grey_and_scaled() -> None:
    crops = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3)).astype(np.uint8)
    found = prepare(crops, Preprocess(crop=(3, 5, 32), size=16, grey=True))
    assert found.shape == (2, 1, 16, 16)
    square = crops[1, 5:37, 3:35].astype(np.float64) @ [0.299, 0.587, 0.114]
    expected = square.reshape(16, 2, 16, 2).mean((1, 3))
    assert np.abs(found[1, 0] - expected).max() <= 1
    same = prepare(crops, Preprocess(crop=(0, 0, 40), size=40))
    np.testing.assert_array_equal(same, crops.transpose(0, 3, 1, 2))


def test_standardised_pictures_do_not_depend_on_gain_and_offset() -> None:
    import torch

    picture = torch.rand(3, 1, 8, 8) * 100
    options = Preprocess(crop=(0, 0, 8), size=8, grey=True, standardise=True)
    found = normalise(picture, options)
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((1, 2, 3)), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(normalise(picture * 2 + 20, options), found, atol=0.02, rtol=0)
    channels = Preprocess(crop=(0, 0, 8), size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    expected = (torch.full((1, 3, 8, 8), 0.6) - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor(
        [0.2, 0.25, 0.5]
    )[:, None, None]
    torch.testing.assert_close(normalise(torch.full((1, 3, 8, 8), 153.0), channels), expected)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("scaled", [{}, {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.1)}])
def test_a_normalised_picture_can_be_turned_back(standardise: bool, scaled: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    options = Preprocess(crop=(0, 0, 8), size=8, standardise=standardise, **scaled)
    pictures = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    back = denormalise(normalise(pictures, options), pictures, options)
    torch.testing.assert_close(back, pictures.float(), atol=1e-3, rtol=0)


def test_light_neither_brightens_nor_darkens_in_the_mean() -> None:
    images = np.full((20_000, 1, 2, 2), 120, np.uint8)
    lit = augment(images, AugmentOptions(light=0.01), np.random.default_rng(0))
    assert lit.mean() == pytest.approx(120, abs=0.05)


def test_augmentation_moves_mirrors_and_lights_each_picture_by_itself() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 255, (20, 20)).astype(np.uint8), (0, 0), 2)
    images = np.broadcast_to(picture, (64, 1, 20, 20))
    moved = augment(images, AugmentOptions(shift=2), np.random.default_rng(1))
    padded = np.pad(picture, 2, mode="edge")
    places = {
        (y, x)
        for each in moved
        for y in range(5)
        for x in range(5)
        if np.array_equal(each[0], padded[y:, x:][:20, :20])
    }
    assert len(places) > 15
    assert all(any(np.array_equal(m[0], padded[y:, x:][:20, :20]) for y, x in places) for m in moved)
    mirrored = augment(images, AugmentOptions(flip=True), np.random.default_rng(1))
    kinds = [np.array_equal(each[0], picture) for each in mirrored]
    assert 10 < sum(kinds) < 54
    assert all(
        np.array_equal(each[0], picture[:, ::-1]) for each, same in zip(mirrored, kinds, strict=True) if not same
    )
    lit = augment(images, AugmentOptions(light=0.3), np.random.default_rng(1))
    assert lit.dtype == np.uint8
    assert lit.reshape(64, -1).mean(1).std() > 5
    np.testing.assert_array_equal(augment(images, AugmentOptions(), rng), images)


def test_parts_that_are_cut_out_are_as_large_and_as_long_as_torchvisions() -> None:
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    side, area = 64, (0.2, 1.0)
    place = np.arange(side, dtype=np.uint8) * 3
    image = np.stack([np.tile(place, (side, 1)), np.tile(place[:, None], (1, side))])
    cut = augment(np.repeat(image[None], 600, 0), AugmentOptions(area=area), np.random.default_rng(0))
    middle = cut[:, :, 8:-8, 8:-8].astype(float)  # the edges of a scaled picture repeat
    width = np.diff(middle[:, 0], axis=2).mean((1, 2)) / 3 * side
    height = np.diff(middle[:, 1], axis=1).mean((1, 2)) / 3 * side
    sides = [RandomResizedCrop.get_params(torch.zeros(1, side, side), area, (3 / 4, 4 / 3))[2:] for _ in range(600)]
    theirs = np.array(sides, float)
    for mine, expected in (
        (width * height, theirs[:, 0] * theirs[:, 1]),
        (np.log(width / height), np.log(theirs[:, 1] / theirs[:, 0])),
    ):
        assert abs(mine.mean() - expected.mean()) < 4 * expected.std() / 600**0.5 * 2**0.5
        assert mine.std() == pytest.approx(expected.std(), rel=0.15)
    assert (width * height).min() > 0.18 * side**2
    assert width.max() < side + 1
