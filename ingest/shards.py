"""Faces as rows of the `faces` table and back, their crops as JPEG."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from common.commit.units import Video
from common.errors import MienError
from common.lake.schema import BOX_COLUMNS, FACES, LANDMARK_COLUMNS
from ingest.align import FaceBatch

NO_FACE = "no_face"


def to_table(batch: FaceBatch, video: Video, *, quality: int = 95) -> pa.Table:
    """Rows in `schema.FACES`, in order of (frame_index, track_id): one per face, one per frame without a face.

    Crops are JPEGs without chroma subsampling, `quality` of 100: at 95 a crop's grey levels change by about one in the
    mean.
    """
    empty = np.setdiff1d(np.arange(len(batch)), batch.row)
    frame = np.concatenate([batch.row, empty])
    track = np.concatenate([batch.track_id, np.zeros(len(empty), np.int32)])
    order = np.lexsort((track, frame))
    no_face = order >= len(batch.row)
    face = order[~no_face]
    crops = [simplejpeg.encode_jpeg(crop, quality, "RGB", "444") for crop in np.ascontiguousarray(batch.crops)]

    def of_faces(values: NDArray) -> pa.Array:
        filled = np.zeros(len(order), values.dtype)
        filled[~no_face] = values[face]
        return pa.array(filled, mask=no_face)

    def of_face_objects(values: list, otherwise: object, type_: pa.DataType) -> pa.Array:
        return pa.array([otherwise if none else values[i] for i, none in zip(order, no_face, strict=True)], type_)

    columns = [
        pa.repeat(video.video_id, len(order)),
        pa.repeat(video.uri, len(order)),
        pa.array(batch.frame_index[frame[order]]),
        pa.array(batch.time_s[frame[order]]),
        of_faces(batch.track_id),
        of_face_objects(batch.status.tolist(), NO_FACE, pa.string()),
        of_faces(batch.score),
        *map(of_faces, batch.box.T),
        *map(of_faces, batch.landmarks.reshape(-1, len(LANDMARK_COLUMNS)).T),
        of_face_objects(crops, None, pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=FACES)


def from_table(table: pa.Table) -> FaceBatch:
    """The faces of one video's rows, as `to_table` wrote them, with the crops as JPEG kept them.

    `table` holds whole frames, in order. MienError: a crop cannot be decoded.
    """
    index = table["frame_index"].to_numpy()
    first = np.flatnonzero(np.diff(index, prepend=-1))
    status = np.array(table["face_status"].to_pylist(), np.str_)
    faces = table.filter(pa.array(status != NO_FACE))
    frame = np.cumsum(np.diff(index, prepend=-1) != 0) - 1

    def floats(columns: tuple[str, ...]) -> NDArray[np.float32]:
        return np.stack([faces[column].to_numpy() for column in columns], 1).astype(np.float32)

    return FaceBatch(
        frame_index=index[first].astype(np.int32),
        time_s=table["time_s"].to_numpy()[first],
        row=frame[status != NO_FACE].astype(np.int32),
        track_id=faces["track_id"].to_numpy().astype(np.int32),
        box=floats(BOX_COLUMNS),
        landmarks=floats(LANDMARK_COLUMNS).reshape(-1, len(LANDMARK_COLUMNS) // 2, 2),
        score=faces["det_score"].to_numpy().astype(np.float32),
        status=status[status != NO_FACE],
        crops=_decoded(faces),
    )


def _decoded(faces: pa.Table) -> NDArray[np.uint8]:
    crops = []
    for row, jpeg in enumerate(faces["crop"]):
        try:
            crops.append(simplejpeg.decode_jpeg(jpeg.as_py(), "RGB", fastdct=False))
        except ValueError as error:
            where = f"frame {faces['frame_index'][row].as_py()} of {faces['uri'][row].as_py()}"
            raise MienError(f"the stored crop of a face in {where} is damaged ({error}): ingest it again") from None
    return np.stack(crops) if crops else np.zeros((0, 0, 0, 3), np.uint8)
