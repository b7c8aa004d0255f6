"""Faces of a video as arrays and as rows: only this module makes the JPEG of a crop and rows of `faces` and `scores`.

Both tables have a row for each face and a row for each frame without one, in order of (frame_index, track_id).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from common.commit.units import Video
from common.errors import MienError
from common.lake.schema import BOX_COLUMNS, FACES, LANDMARK_COLUMNS, SCORES
from common.tasks import TASKS

NO_FACE = "no_face"
JPEG_QUALITY = 95  # of 100: grey levels of a crop change by about 1 on average
_EXPRESSION = TASKS["expr"]
_EXPRESSION_COLUMNS = _EXPRESSION.columns(_EXPRESSION.known)


@dataclass(frozen=True)
class FaceBatch:
    """F neighbouring frames, and the M faces in them, in order of frame and track. A frame may have no face.

    Of each frame: frame_index int32 [F]; time_s, duration_s float64 [F], the latter until the next frame's time.
    Of each face: row int32 [M], which of the F frames it is in; track_id int32 [M]; box float32 [M, 4] and landmarks
    float32 [M, 5, 2] (in the order of `ingest.detect.detector.Faces`), both in pixels of the upright source picture,
    from its edge; score float32 [M]; yaw float32 [M], in degrees; sharpness float32 [M]; status str [M], "ok" or
    "low_quality"; crops uint8 [M, S, S, 3], aligned, RGB. Landmarks, score and yaw of a crop that a dataset ships are
    NaN.
    """

    frame_index: NDArray[np.int32]
    time_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    row: NDArray[np.int32]
    track_id: NDArray[np.int32]
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: NDArray[np.float32]
    yaw: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    status: NDArray[np.str_]
    crops: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frame_index)

    def chosen(self, order: NDArray[np.integer]) -> FaceBatch:
        """The same frames with the faces `order` alone, in this order."""
        of_faces = [field.name for field in fields(self) if field.name not in ("frame_index", "time_s", "duration_s")]
        return replace(self, **{name: getattr(self, name)[order] for name in of_faces})


def to_faces(batch: FaceBatch, video: Video, *, quality: int = JPEG_QUALITY) -> pa.Table:
    """The batch as a table in `schema.FACES`. `quality`: 1 to 100, of the crops' JPEGs; chroma is not subsampled."""
    rows = _Rows(batch, video)
    jpegs = [simplejpeg.encode_jpeg(crop, quality, "RGB", "444") for crop in np.ascontiguousarray(batch.crops)]
    columns = rows.shared() | {"crop": rows.of_faces(jpegs, pa.binary())}
    landmarks = batch.landmarks.reshape(-1, len(LANDMARK_COLUMNS))
    columns |= {name: rows.of_faces(_known(landmarks[:, i])) for i, name in enumerate(LANDMARK_COLUMNS)}
    return pa.table([columns[name] for name in FACES.names], schema=FACES)


def from_faces(table: pa.Table) -> FaceBatch:
    """The inverse of `to_faces`, except that the crops have lost what JPEG loses.

    `table` holds whole frames of one video, in order. Raises `MienError` as `decoded_crops` does.
    """
    index = table["frame_index"].to_numpy()
    begins = np.diff(index, prepend=-1) != 0
    status = np.array(table["face_status"].to_pylist(), np.str_)
    is_face = status != NO_FACE
    faces = table.filter(pa.array(is_face))

    def floats(column: str) -> NDArray[np.float32]:
        return faces[column].to_numpy().astype(np.float32)

    def stacked(columns: tuple[str, ...]) -> NDArray[np.float32]:
        return np.stack([floats(column) for column in columns], 1)

    return FaceBatch(
        frame_index=index[begins].astype(np.int32),
        time_s=table["time_s"].to_numpy()[begins],
        duration_s=table["frame_duration_s"].to_numpy()[begins],
        row=(np.cumsum(begins) - 1)[is_face].astype(np.int32),
        track_id=faces["track_id"].to_numpy().astype(np.int32),
        box=stacked(BOX_COLUMNS),
        landmarks=stacked(LANDMARK_COLUMNS).reshape(-1, len(LANDMARK_COLUMNS) // 2, 2),
        score=floats("det_score"),
        yaw=floats("yaw"),
        sharpness=floats("sharpness"),
        status=status[is_face],
        crops=decoded_crops(faces),
    )


def decoded_crops(faces: pa.Table) -> NDArray[np.uint8]:
    """The crops of rows that all have a face, uint8 [B, S, S, 3]. Needs the columns crop, frame_index and uri.

    Raises `MienError` for a crop that cannot be decoded, naming its frame.
    """
    crops = []
    for row, jpeg in enumerate(faces["crop"]):
        try:
            crops.append(decoded(jpeg.as_py()))
        except ValueError as error:
            where = f"frame {faces['frame_index'][row].as_py()} of {faces['uri'][row].as_py()}"
            raise MienError(f"the stored crop of a face in {where} is damaged ({error}): ingest it again") from None
    return np.stack(crops) if crops else np.zeros((0, 0, 0, 3), np.uint8)


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    """A crop from its JPEG, uint8 [S, S, 3]. Raises ValueError if it is damaged."""
    return simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False)


def to_scores(batch: FaceBatch, video: Video, predictions: Mapping[str, NDArray[np.float32]]) -> pa.Table:
    """The batch as a table in `schema.SCORES`. `predictions`: column -> float32 [M]; other columns are NULL."""
    rows = _Rows(batch, video)
    columns = rows.shared() | {name: rows.of_faces(values) for name, values in predictions.items()}
    if given := [column for column in predictions if column in _EXPRESSION_COLUMNS]:
        best = np.stack([predictions[column] for column in given]).argmax(axis=0)
        names = np.array([column.removeprefix(_EXPRESSION.prefix) for column in given])
        columns["expression"] = rows.of_faces(names[best].tolist(), pa.string())
    return pa.table([columns.get(field.name, pa.nulls(len(rows), field.type)) for field in SCORES], schema=SCORES)


def _known(values: NDArray[np.float32]) -> pa.Array:
    """NaN becomes NULL."""
    return pa.array(values, mask=np.isnan(values))


class _Rows:
    """The rows of a batch, and their columns as Arrow arrays."""

    def __init__(self, batch: FaceBatch, video: Video) -> None:
        self._batch, self._video = batch, video
        empty = np.setdiff1d(np.arange(len(batch)), batch.row)
        frame = np.concatenate([batch.row, empty])
        track = np.concatenate([batch.track_id, np.zeros(len(empty), np.int32)])
        order = np.lexsort((track, frame))
        self._frame = frame[order]  # [R] which frame of the batch a row is of
        self._face = pa.array(order, pa.int64(), mask=order >= len(batch.row))  # [R] which face, NULL for none

    def __len__(self) -> int:
        return len(self._frame)

    def of_faces(self, values: NDArray | list | pa.Array, type_: pa.DataType | None = None) -> pa.Array:
        """A column from `values` [M], one for each face: NULL in rows without a face."""
        return pa.array(values, type_).take(self._face)

    def shared(self) -> dict[str, pa.Array]:
        """The columns that `faces` and `scores` have in common."""
        batch, video = self._batch, self._video
        columns = {
            "video_id": pa.repeat(video.video_id, len(self)),
            "uri": pa.repeat(video.uri, len(self)),
            "video_name": pa.repeat(video.name, len(self)),
            "frame_index": pa.array(batch.frame_index[self._frame]),
            "time_s": pa.array(batch.time_s[self._frame]),
            "frame_duration_s": pa.array(batch.duration_s[self._frame]),
            "track_id": self.of_faces(batch.track_id),
            "face_status": self.of_faces(batch.status.tolist(), pa.string()).fill_null(NO_FACE),
            "det_score": self.of_faces(_known(batch.score)),
            "yaw": self.of_faces(_known(batch.yaw)),
            "sharpness": self.of_faces(batch.sharpness),
        }
        return columns | {name: self.of_faces(batch.box[:, i]) for i, name in enumerate(BOX_COLUMNS)}
