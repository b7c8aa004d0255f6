"""The picture of a video: a panel for each track with its values over time, its gaps, and what its words say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scored_lakes import FPS, batch, put_faces, put_labels, put_scores

from common.cli import main
from common.labels import ALL_EXPRESSIONS
from common.lake.layout import Lake
from score.analysis import timeline
from score.analysis.plot import BANDS, LINES, figure_of
from score.analysis.sql import connect

URI = "/v/a.mp4"
SEVEN = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def drawn(lake: Lake) -> Figure:
    with connect(lake) as tables:
        return figure_of(timeline.read(tables, "a.mp4"))


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def line(axis: Axes, color: str, width: float) -> np.ndarray:
    """The points [n, 2] of the one line that looks so."""
    (found,) = [each for each in axis.lines if to_hex(each.get_color()) == color and each.get_linewidth() == width]
    return np.asarray(found.get_xydata())


def hatched(axis: Axes) -> list[tuple[float, float]]:
    spans = [patch for patch in axis.patches if patch.get_hatch()]
    return [(round(span.get_x(), 6), round(span.get_x() + span.get_width(), 6)) for span in spans]


def colour_at(axis: Axes, x: float, y: float) -> str:
    """Of the uppermost area that covers a point."""
    covering = [area for area in axis.collections if any(path.contains_point((x, y)) for path in area.get_paths())]
    return to_hex(covering[-1].get_facecolor()[0])


def put_expressions(lake: Lake, tracks: dict[int, list[int]], frames: int) -> np.ndarray:
    faces = batch(tracks, frames)
    shares = np.random.default_rng(2).dirichlet(np.ones(len(SEVEN)), len(faces.row))
    put_scores(lake, URI, faces, {f"expr_{name}": shares[:, i] for i, name in enumerate(SEVEN)})
    return shares


def test_valence_and_arousal_are_lines_that_break_where_the_face_is_gone(lake: Lake) -> None:
    valence, arousal = np.array([0.1, 0.2, 0.3]), np.array([-0.1, -0.2, -0.3])
    put_scores(lake, URI, batch({0: [1, 2, 6]}, 8), {"valence": valence, "arousal": arousal})
    (axis,) = drawn(lake).axes
    edges = 0.5 + np.array([1, 2, 3, 3, 6, 7, 7]) / FPS
    for name, (a, b, c) in (("valence", valence), ("arousal", arousal)):
        found = line(axis, LINES[name], 1.5)
        np.testing.assert_allclose(found, np.stack([edges, [a, b, b, np.nan, c, c, np.nan]], axis=1), atol=1e-6)
    gaps = [(0.5, 0.5 + 1 / FPS), (0.5 + 3 / FPS, 0.5 + 6 / FPS), (0.5 + 7 / FPS, 0.5 + 8 / FPS)]
    assert hatched(axis) == [pytest.approx(gap) for gap in gaps]


def test_without_valence_expressions_are_bands_as_high_as_their_probabilities(lake: Lake) -> None:
    shares = put_expressions(lake, {0: [0, 1, 3]}, 4)
    (axis,) = drawn(lake).axes
    for share, frame in zip(shares, (0, 1, 3), strict=True):
        edges = np.cumsum([0, *share])
        for i, name in enumerate(SEVEN):
            middle = (edges[i] + edges[i + 1]) / 2
            assert colour_at(axis, 0.5 + (frame + 0.5) / FPS, middle) == BANDS[name]
    assert hatched(axis) == [pytest.approx((0.58, 0.62))]
    assert axis.get_ylim() == (0, 1)


def test_a_model_of_action_units_alone_is_a_map_of_their_probabilities(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0, 2]}, 3), {"au01": [0.1, 0.2], "au12": [0.8, 0.9]})
    axis = drawn(lake).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["AU12", "AU01"]
    rows = [mesh.get_array().filled(np.nan).ravel() for mesh in axis.collections]
    np.testing.assert_allclose(rows[0][[0, -1]], [0.8, 0.9], atol=1e-6)
    np.testing.assert_allclose(rows[1][[0, -1]], [0.1, 0.2], atol=1e-6)
    assert np.isnan(rows[0]).any()


def test_every_class_has_a_colour_of_its_own() -> None:
    assert set(BANDS) == set(ALL_EXPRESSIONS)
    assert len(set(BANDS.values())) == len(BANDS)


def test_words_say_what_and_whose_it_is_and_in_what_unit(lake: Lake) -> None:
    put_expressions(lake, {0: [0, 1], 1: [3]}, 4)
    figure = drawn(lake)
    assert figure.get_suptitle() == "a.mp4, scored by m-1a-2b"
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "track 0: 2 of 4 frames, 0.5 to 0.6 s",
        "track 1: 1 of 4 frames, 0.6 to 0.7 s",
    ]
    assert figure.axes[-1].get_xlabel() == "time in the video, in s"
    assert {axis.get_ylabel() for axis in figure.axes} == {"probability"}
    assert words(figure) == [*SEVEN, "this face was not found"]


def test_the_title_says_what_was_left_out_and_averaged(lake: Lake) -> None:
    tracks = {track: list(range(10 * track, 2000)) for track in range(8)}
    faces = batch(tracks, 2000)
    put_scores(lake, URI, faces, {"valence": np.zeros(len(faces.row))})
    figure = drawn(lake)
    assert len(figure.axes) == 6
    assert figure.get_suptitle().splitlines()[1:] == [
        "each point is the mean over 2 frames",
        "the 6 longest tracks; 2 shorter ones are left out",
    ]


def test_labels_are_pale_lines_and_the_title_says_whose_and_what_held_out_means(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0, 1, 2, 3]}, 4), {"valence": [0, 0, 0, 0]})
    put_labels(lake, "a", [{"frame_index": 1, "valence": 0.5}, {"frame_index": 2, "valence": 0.25}], split="validation")
    figure = drawn(lake)
    found = line(figure.axes[0], LINES["valence"], 2.5)
    np.testing.assert_array_equal(found[:, 1], [np.nan, 0.5, 0.25, np.nan, np.nan, np.nan])
    assert words(figure) == ["valence (-1 unpleasant, 1 pleasant)", "valence as labelled"]
    assert "labels of synth" in figure.get_suptitle()
    assert (
        "held out: the video is in the validation set of synth, from which mien train learns" in figure.get_suptitle()
    )


def test_labels_that_are_not_drawn_are_not_spoken_of(lake: Lake) -> None:
    put_expressions(lake, {0: [0, 1]}, 2)
    put_labels(lake, "a", [{"frame_index": 1, "valence": 0.5}])
    assert drawn(lake).get_suptitle() == "a.mp4, scored by m-1a-2b"


def test_labelled_expressions_are_a_row_above_the_bands(lake: Lake) -> None:
    put_expressions(lake, {0: [0, 1]}, 2)
    put_labels(lake, "a", [{"frame_index": 1, "expression": "other"}])
    figure = drawn(lake)
    assert colour_at(figure.axes[0], 0.5 + 1.5 / FPS, 1.09) == BANDS["other"]
    assert words(figure) == [*SEVEN, "other"]
    assert figure.axes[0].get_yticklabels()[-1].get_text() == "label"


def test_labelled_action_units_are_lines_in_their_rows(lake: Lake) -> None:
    put_scores(lake, URI, batch({0: [0, 1]}, 2), {"au01": [0.1, 0.2], "au12": [0.8, 0.9]})
    put_labels(lake, "a", [{"frame_index": 0, "au12": 0, "au01": 0}, {"frame_index": 1, "au12": 1, "au01": 0}])
    figure = drawn(lake)
    segments = [
        segment
        for lines in figure.axes[0].collections
        if hasattr(lines, "get_segments")
        for segment in lines.get_segments()
    ]
    (found,) = segments
    np.testing.assert_allclose(found[:, 0], [0.5 + 1 / FPS, 0.5 + 2 / FPS])
    assert 0 < found[0, 1] < 1  # the lowest row: AU12
    assert words(figure) == ["labelled as active"]


def test_stored_faces_are_below_their_track_under_the_names_of_their_expressions(lake: Lake) -> None:
    faces = batch({0: list(range(32)), 1: list(range(16))}, 32, shade=50)
    put_scores(lake, URI, faces, {"valence": np.zeros(48), "expr_fear": np.ones(48)})
    put_faces(lake, URI, faces)
    figure = drawn(lake)
    assert len(figure.axes) == 4
    for axis, shade, count in ((figure.axes[1], 50, 16), (figure.axes[3], 51, 8)):
        assert {int(np.asarray(image.get_array()).mean().round()) for image in axis.images} == {shade}
        assert [text.get_text() for text in axis.texts] == ["fear"] * count
        assert all(text.get_position()[1] > 1 for text in axis.texts)  # above the faces, inside of the axes
        assert axis.get_ylim()[1] > 1.2


@pytest.mark.parametrize("where", ["local", "s3"])
def test_the_command_writes_a_png_and_says_what_it_shows(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture
) -> None:
    lake = Lake(str(tmp_path / "lake") if where == "local" else request.getfixturevalue("s3_url"))
    name = "50$ or 60$_{x} 映画.mp4"
    put_scores(lake, f"/v/{name}", batch({0: [0, 1]}, 2), {"valence": [0, 1]})
    out = tmp_path / "a.png"
    assert main(["plot", lake.url, "--video", name, "--out", str(out)]) == 0
    done = capsys.readouterr()
    assert done.out == f"{out}: {name}, scored by m-1a-2b, 1 track\n"
    assert done.err == ""
    assert out.read_bytes().startswith(b"\x89PNG")
    height, width, _ = cv2.imread(str(out)).shape
    assert (width, 300 < height < 600) == (1320, True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--out", "a.pdf"], "a PNG: give --out a name that ends in .png"),
        (["--out", "no/a.png"], "the picture no/a.png cannot be written: No such file or directory"),
        (["--out", "a.png", "--model", "x"], "choose one with --model, m-1a-2b"),
        (["--out", "a.png", "--video", "b.mp4"], "did you mean a.mp4?"),
    ],
)
def test_a_wrong_usage_is_one_sentence_and_exit_status_2(
    given: list[str], sentence: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    put_scores(lake, URI, batch({0: [0]}, 1), {"valence": [0]})
    monkeypatch.chdir(tmp_path)
    assert main(["plot", lake.url, "--video", "a.mp4", *given]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.glob("**/*.png")) == []


def test_no_lake_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plot", str(tmp_path / "no"), "--video", "a.mp4", "--out", str(tmp_path / "a.png")]) == 2
    assert "there is no lake at" in capsys.readouterr().err


def test_a_long_name_is_cut_in_its_middle(lake: Lake) -> None:
    name = f"begin{200 * 'x'}.mp4"
    put_scores(lake, f"/v/{name}", batch({0: [0]}, 1), {"valence": [0]})
    with connect(lake) as tables:
        title = figure_of(timeline.read(tables, name)).get_suptitle()
    assert len(title) == 100
    assert title.startswith("beginxxx")
    assert title.endswith("xxx.mp4, scored by m-1a-2b")
