"""The rows of `faces` are those of the day when their version was stated: a change of the arithmetic is found out here.

`python tests/ingest/test_golden.py` writes the golden rows anew.
"""

from __future__ import annotations

import json
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from skimage import data

from common.commit.units import Video
from common.faces import decoded_crops, to_faces
from ingest.decode.reader import open_video
from ingest.faces import FaceFinder, FacesOptions

GOLDEN = Path(__file__).with_name("golden_rows.json")
FORGOTTEN = """the rows of `faces` are not what they were.
If that is wanted, raise the version of each stage whose results have changed (DECODE_RESULTS, BETWEEN_RESULTS,
TRACK_RESULTS, QUALITY_RESULTS, ALIGN_RESULTS, or `results` of the detector in ingest/detect/registry.py), so that old
and new rows do not share a partition; then run `python tests/ingest/test_golden.py`, which writes golden rows anew."""
# Processors round differently; a changed rule moves more than this.
TOLERANCE = {"time_s": 1e-6, "frame_duration_s": 1e-6, "det_score": 0.003, "pixels": 0.05, "crop": 0.5}


def write_clip(path: Path) -> Path:
    """A face that moves, is too narrow, is away and comes back after a cut; without loss, frames of unequal length."""
    face = cv2.resize(data.astronaut(), (192, 192), interpolation=cv2.INTER_AREA)
    narrow = face.copy()
    narrow[:, :108] = cv2.resize(face, (108, 192), interpolation=cv2.INTER_AREA)
    empty = np.ascontiguousarray(data.coffee()[:192, :192])
    moving = [face, np.roll(face, 5, 1), np.roll(face, (4, 11), (0, 1)), narrow]
    pictures = [*moving, *[empty] * 4, np.roll(face, -7, 1)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 192, 192, "yuv444p"
        for time, picture in zip((0, 1, 3, 4, 5, 9, 10, 11, 12), pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What the table says of each face and frame, of a crop 64 grey levels."""
    finder, video = FaceFinder(FacesOptions()), Video("/clips/golden.mkv", "1-1", 1)
    with open_video(path) as reader:
        tables = [to_faces(batch, video) for batch in finder.find(reader)]
    rows = []
    for table in tables:
        for position, row in enumerate(table.to_pylist()):
            if row["crop"] is not None:
                grey = decoded_crops(table.slice(position, 1))[0].mean(axis=2)
                row["crop"] = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA).ravel().round(1).tolist()
            kept = {name: value for name, value in row.items() if name not in ("video_id", "uri", "video_name")}
            rows.append({name: round(v, 4) if isinstance(v, float) else v for name, v in kept.items()})
    return rows


def differs(name: str, found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, float | list) or found is None:
        return found != wanted
    pixels = TOLERANCE["pixels"] if name not in TOLERANCE else TOLERANCE[name]
    return not np.allclose(found, wanted, rtol=0, atol=pixels)


def test_rows_are_the_golden_ones_unless_a_version_is_raised(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    rows = rows_of(write_clip(tmp_path / "golden.mkv"))
    changed = [
        f"row {number}, {name}: {found[name]}, not {wanted[name]}"
        for number, (found, wanted) in enumerate(zip(rows, golden["rows"], strict=False))
        for name in wanted
        if differs(name, found[name], wanted[name])
    ]
    assert not changed, "\n".join([FORGOTTEN, *changed])
    assert len(rows) == len(golden["rows"]), FORGOTTEN
    assert FacesOptions().identity()["results"] == golden["results"], "write the golden rows anew: a version was raised"


def test_golden_rows_have_every_status_and_more_than_one_track() -> None:
    rows = json.loads(GOLDEN.read_text())["rows"]
    assert {row["face_status"] for row in rows} == {"ok", "low_quality", "no_face"}
    assert {row["track_id"] for row in rows} >= {0, 1}


def test_the_versions_of_all_stages_are_in_the_identity_of_faces() -> None:
    assert FacesOptions().identity()["results"].keys() == {
        *("decode", "detect", "between", "track", "quality", "align")
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = rows_of(write_clip(Path(folder) / "golden.mkv"))
    lines = ",\n".join(f"  {json.dumps(row)}" for row in made)
    results = json.dumps(FacesOptions().identity()["results"])
    GOLDEN.write_text(f'{{"results": {results},\n "rows": [\n{lines}\n]}}\n')
