"""Crops batched across the frames they came from."""

from __future__ import annotations

import numpy as np
import pytest

from score.encode import MAX_FRAMES_HELD, encode

FACES = {0: [*range(40), *range(90, 100)], 1: list(range(10, 30))}


@pytest.mark.parametrize("size", [1, 7, 16, 200])
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_features_belong_to_their_crops_whatever_the_batches(arithmetic_model, make_faces, size, batch_size) -> None:
    batches = list(make_faces(FACES, 120, size=size))
    result = list(encode(iter(batches), arithmetic_model(), batch_size=batch_size))
    assert [batch for batch, _ in result] == batches
    for batch, features in result:
        assert len(features) == len(batch.crops)
        if len(batch.crops):
            np.testing.assert_allclose(features, arithmetic_model().encode(batch.crops), atol=1e-5)


def test_encoder_gets_full_batches_across_frames_and_videos(arithmetic_model, make_faces) -> None:
    model = arithmetic_model()
    videos = [*make_faces({0: list(range(50))}, 50, size=7), *make_faces({0: list(range(30))}, 30, size=7)]
    list(encode(iter(videos), model, batch_size=32))
    assert model.batches == [32, 32, 16]


def test_frames_without_faces_are_not_held_back_for_ever(arithmetic_model, make_faces) -> None:
    """One face, then an hour of nothing: what is drawn ahead of what has come out stays bounded."""
    drawn = 0

    def source():
        nonlocal drawn
        for batch in make_faces({0: [0]}, 90_000, size=16):
            drawn += len(batch.frame_index)
            yield batch

    out = 0
    for batch, _ in encode(source(), arithmetic_model(), batch_size=64):
        assert drawn - out <= MAX_FRAMES_HELD + 16
        out += len(batch.frame_index)
    assert out == 90_000
