"""One video's faces to its rows of the `scores` table: encode, windows per track, heads, overlap average, rows.

Rows leave in order as soon as every face of their frames is final, so what is held depends on the window and on how
many faces are in sight, never on the length of the video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Names
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import MienError
from common.faces import FaceBatch, to_scores
from common.labels import ACTION_UNITS, EXPRESSIONS, VALENCE_AROUSAL
from common.windows import breaks
from score.encode import Encoder, encode
from score.sequences import Sequence, Window, Windowing

if TYPE_CHECKING:
    from common.bundle import BundleManifest
    from common.commit.units import Video

TASKS = ("va", "expr", "au")
_NO_CROPS = np.zeros((0, 0, 0, 3), np.uint8)


class Scorer(Encoder, Protocol):
    """A bundle at work, as `train.models.load` gives it."""

    def heads(self, features: NDArray[np.float32], valid: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
        """features float32 [N, w, D], valid bool [N, w] -> for each task of the bundle float32 [N, w, K], activated."""


@dataclass(frozen=True)
class ScoreOptions:
    """`windowing` and `classes` are the bundle's; the sizes of batches trade memory for speed and change no row.

    `classes`: task -> names in the order of the head's outputs, for expr and au; some of all may be missing.
    """

    windowing: Windowing
    classes: Mapping[str, Names[str]] = field(default_factory=lambda: {"expr": EXPRESSIONS, "au": ACTION_UNITS})
    batch_size: int = 64  # crops a call of the encoder
    window_batch: int = 8  # windows a call of the heads
    table_rows: int = 2_048  # rows gathered before a table leaves; small tables cost more memory than their rows

    @classmethod
    def of(cls, bundle: BundleManifest, *, batch_size: int = 64, window_batch: int = 8) -> ScoreOptions:
        windowing = Windowing(bundle.fps, bundle.window, bundle.stride, bundle.gaps)
        classes = {str(task): names for task, names in bundle.classes.items()}
        return cls(windowing, classes, batch_size, window_batch)

    def columns(self, task: str) -> list[str]:
        """The columns that a task fills, in the order of its head's outputs."""
        if task == "va":
            return list(VALENCE_AROUSAL)
        return [f"expr_{name}" if task == "expr" else name for name in self.classes[task]]


@dataclass
class _Pending:
    """A batch of frames whose M faces wait for predictions; `slot` is the running number of its first face."""

    faces: FaceBatch  # without crops, which are most of what a face weighs
    slot: int
    predictions: NDArray[np.float32] | None = None  # [M, K], the columns of all tasks side by side
    ready: int = 0


@dataclass
class _Track:
    sequence: Sequence
    time_s: float


def scores(batches: Iterable[FaceBatch], model: Scorer, video: Video, options: ScoreOptions) -> Iterator[pa.Table]:
    """Tables in `schema.SCORES`, their rows in order of (frame_index, track_id), for the faces of one video.

    Every frame of `batches` has a row: without a face its `face_status` is no_face and its predictions are NULL, as are
    those of a task or a class the bundle lacks. Raises MienError when the model gives a value that is not finite, or
    not one for each class.
    """
    tables: list[pa.Table] = []
    for table in _Stream(model, video, options).tables(batches):
        tables.append(table)
        if sum(len(each) for each in tables) >= options.table_rows:
            yield pa.concat_tables(tables).combine_chunks()
            tables.clear()
    if tables:
        yield pa.concat_tables(tables).combine_chunks()


class _Stream:
    def __init__(self, model: Scorer, video: Video, options: ScoreOptions) -> None:
        self._model = model
        self._video = video
        self._options = options
        self._tracks: dict[int, _Track] = {}
        self._pending: deque[_Pending] = deque()
        self._slot = 0
        self._clock = -np.inf
        self._columns: list[str] = []

    def tables(self, batches: Iterable[FaceBatch]) -> Iterator[pa.Table]:
        for faces, features in encode(batches, self._model, batch_size=self._options.batch_size):
            self._pending.append(_Pending(replace(faces, crops=_NO_CROPS), self._slot))
            self._predict(self._windows(faces, features))
            self._slot += len(features)
            yield from self._leave()
        self._predict(track.sequence.close() for track in self._tracks.values())
        yield from self._leave()

    def _windows(self, faces: FaceBatch, features: NDArray[np.float32]) -> Iterator[Window]:
        """The windows that these faces fill, and the last windows of the tracks that are over."""
        if not len(faces.frame_index):
            return
        windowing = self._options.windowing
        # Windows need a clock that does not run backwards, whatever the file says; the rows keep the file's times.
        clock = np.maximum.accumulate(np.append(self._clock, faces.time_s))[1:]
        self._clock = float(clock[-1])
        for track_id in np.unique(faces.track_id).tolist():
            rows = np.flatnonzero(faces.track_id == track_id)
            times = clock[faces.row[rows]]
            track = self._tracks.get(track_id)
            gaps = breaks(np.append([] if track is None else track.time_s, times), windowing.window, windowing.fps)
            fresh = np.append(True, gaps) if track is None else gaps
            for number, piece in enumerate(np.split(np.arange(len(rows)), np.flatnonzero(fresh))):
                if number:
                    if track is not None:
                        yield track.sequence.close()
                    track = _Track(Sequence(windowing, float(times[piece[0]])), 0.0)
                if track is not None and len(piece):
                    yield from track.sequence.push(times[piece], features[rows[piece]], self._slot + rows[piece])
            assert track is not None
            track.time_s = float(times[-1])
            self._tracks[track_id] = track
        for track_id, track in list(self._tracks.items()):
            if breaks(np.array([track.time_s, self._clock]), windowing.window, windowing.fps)[0]:
                del self._tracks[track_id]
                yield track.sequence.close()

    def _predict(self, windows: Iterable[Window]) -> None:
        """Run the heads over the windows, several at once, and hand the final predictions to the frames that wait."""
        drawn = iter(windows)
        while some := list(islice(drawn, self._options.window_batch)):
            valid = np.stack([window.valid for window in some])
            outputs = self._model.heads(np.stack([window.features for window in some]), valid)
            tasks = [task for task in TASKS if task in outputs]
            self._columns = [column for task in tasks for column in self._columns_of(task, outputs[task].shape[2])]
            predictions = np.concatenate([outputs[task] for task in tasks], axis=2)
            if not np.isfinite(predictions[valid]).all():
                raise MienError(
                    f"the model gave a value that is not a finite number for {self._video.uri}: its weights are broken"
                    " or overflow in this precision; try float32, or another bundle"
                )
            for window, prediction in zip(some, predictions, strict=True):
                self._give(*window.sequence.accept(window, np.where(window.valid[:, None], prediction, 0.0)))

    def _columns_of(self, task: str, width: int) -> list[str]:
        columns = self._options.columns(task)
        if len(columns) != width:
            raise MienError(
                f"the bundle names {len(columns)} classes of {task} and its model gives {width} values: its bundle.json"
                " and weights do not belong together, train it again"
            )
        return columns

    def _give(self, slots: NDArray[np.int64], predictions: NDArray[np.float64]) -> None:
        for pending in self._pending:
            size = len(pending.faces.row)
            first, last = np.searchsorted(slots, (pending.slot, pending.slot + size))
            if first == last:
                continue
            if pending.predictions is None:
                pending.predictions = np.empty((size, predictions.shape[1]), np.float32)
            pending.predictions[slots[first:last] - pending.slot] = predictions[first:last]
            pending.ready += int(last - first)

    def _leave(self) -> Iterator[pa.Table]:
        while self._pending and self._pending[0].ready == len(self._pending[0].faces.row):
            pending = self._pending.popleft()
            if len(pending.faces.frame_index):
                predictions = pending.predictions
                columns = {} if predictions is None else dict(zip(self._columns, predictions.T, strict=True))
                yield to_scores(pending.faces, self._video, columns)
