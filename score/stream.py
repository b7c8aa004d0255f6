"""From one video's faces to its rows of the `scores` table: features, predictions of every head, smoothing, rows.

A head with windows gets the windows of each track, and its overlapping predictions are averaged; a head without gets
single faces. Predictions are smoothed over frames only if the options say so. Rows are given in order, as soon as all
faces of their frames have all predictions. So memory depends on the length of windows and of smoothing and on the
number of faces in a frame, but not on the length of the video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import MienError
from common.faces import FaceBatch, to_scores
from common.tasks import TASKS
from common.windows import Windowing
from score.encode import Encoder, encode
from score.sequences import Window
from score.smooth import smoothed
from score.tracks import Tracks

if TYPE_CHECKING:
    from common.commit.units import Video

RESULTS = 2
"""The version of scoring's results; it is part of every `model=` id.

Raise it with every change, here, in `score.smooth` or in `train.models`, after which the same faces and bundle give
rows that differ by more than rounding: old and new rows must not share a partition. `tests/score/test_results.py`
fails if you forget.
"""

_NO_CROPS = np.zeros((0, 0, 0, 3), np.uint8)


class Head(Protocol):
    """The head of a task: names of its outputs in order, and the windows that it takes; None: single faces."""

    @property
    def outputs(self) -> Sequence[str]: ...
    @property
    def windowing(self) -> Windowing | None: ...


class Scorer(Encoder, Protocol):
    """The networks of a bundle: `train.models.scoring.ScoringModel`."""

    @property
    def heads(self) -> Mapping[str, Head]:
        """By task."""

    def predict(
        self, tasks: Iterable[str], features: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float32]]:
        """features float32 [N, w, D], valid bool [N, w] -> for each of the tasks float32 [N, w, K], activated."""


@dataclass(frozen=True)
class ScoreOptions:
    """How faces become rows. The sizes of batches trade memory for speed and change no row."""

    batch_size: int = 64  # crops per call of the encoder, and faces per call of heads without windows
    window_batch: int = 8  # windows per call of the other heads
    table_rows: int = 2_048  # rows collected before a table is given; small tables take more memory than their rows
    smooth: str | None = None  # see `score.smooth`


@dataclass
class _Pending:
    """A batch of frames whose M faces wait for predictions; `slot` is the running number of its first face."""

    faces: FaceBatch  # without crops, which take most of a face's memory
    slot: int
    predictions: NDArray[np.float32] | None = None  # [M, K], the columns of all tasks side by side
    given: int = 0  # predictions so far, one for each face and group of heads


@dataclass
class _Group:
    """Heads that take the same windows, or single faces (`tracks` is None); `columns` are theirs in the predictions."""

    tasks: list[str]
    columns: list[int]
    tracks: Tracks | None


def scores(batches: Iterable[FaceBatch], model: Scorer, video: Video, options: ScoreOptions) -> Iterator[pa.Table]:
    """Tables in `schema.SCORES`, their rows in order of (frame_index, track_id), for the faces of one video.

    Every frame of `batches` has a row: without a face its `face_status` is no_face and its predictions are NULL, as are
    those of a task or a class the bundle lacks. Raises MienError when the model gives a value that is not finite, or
    not one for each output that a head names.
    """
    stream = _Stream(model, video, options)
    predicted = stream.predicted(batches)
    tables: list[pa.Table] = []
    for faces, predictions in smoothed(predicted, options.smooth) if options.smooth else predicted:
        tables.append(to_scores(faces, video, dict(zip(stream.columns, predictions.T, strict=True))))
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
        self._pending: deque[_Pending] = deque()
        self._slot = 0
        self.columns: list[str] = []
        groups: dict[Windowing | None, _Group] = {}
        for task in (task for name, task in TASKS.items() if name in model.heads):
            head = model.heads[task.name]
            tracks = None if head.windowing is None else Tracks(head.windowing)
            group = groups.setdefault(head.windowing, _Group([], [], tracks))
            group.tasks.append(task.name)
            group.columns.extend(range(len(self.columns), len(self.columns) + len(head.outputs)))
            self.columns += task.columns(head.outputs)
        self._groups = list(groups.values())

    def predicted(self, batches: Iterable[FaceBatch]) -> Iterator[tuple[FaceBatch, NDArray[np.float32]]]:
        """The batches without their crops, in order, with the predictions for their faces: [M, K], K as `columns`."""
        for faces, features in encode(batches, self._model, batch_size=self._options.batch_size):
            self._pending.append(_Pending(replace(faces, crops=_NO_CROPS), self._slot))
            for group in self._groups:
                if group.tracks is None:
                    self._predict_faces(group, features)
                else:
                    self._predict_windows(group, group.tracks.push(faces, features, self._slot))
            self._slot += len(features)
            yield from self._leave()
        for group in self._groups:
            if group.tracks is not None:
                self._predict_windows(group, group.tracks.close())
        yield from self._leave()

    def _predict_faces(self, group: _Group, features: NDArray[np.float32]) -> None:
        """Runs the group's heads on single faces, `batch_size` at a time; features [M, D]."""
        for start in range(0, len(features), self._options.batch_size):
            some = features[start : start + self._options.batch_size, None]
            predictions = self._predicted(group, some, np.ones((len(some), 1), bool))
            self._give(group, self._slot + start + np.arange(len(some)), predictions[:, 0])

    def _predict_windows(self, group: _Group, windows: Iterable[Window]) -> None:
        """Runs the group's heads on windows, `window_batch` at a time, and passes finished predictions to the faces."""
        drawn = iter(windows)
        while some := list(islice(drawn, self._options.window_batch)):
            valid = np.stack([window.valid for window in some])
            predictions = self._predicted(group, np.stack([window.features for window in some]), valid)
            for window, prediction in zip(some, predictions, strict=True):
                final = window.sequence.accept(window, np.where(window.valid[:, None], prediction, 0.0))
                self._give(group, *final)

    def _predicted(self, group: _Group, features: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The predictions of the group's heads for features [N, w, D], side by side: [N, w, K]."""
        outputs = self._model.predict(group.tasks, features, valid)
        for task in group.tasks:
            named, found = len(self._model.heads[task].outputs), outputs[task].shape[2]
            if named != found:
                raise MienError(
                    f"the bundle names {named} outputs of {task} and its model gives {found} values: its bundle.json"
                    " and weights do not belong together, train it again"
                )
        predictions = np.concatenate([outputs[task] for task in group.tasks], axis=2)
        if not np.isfinite(predictions[valid]).all():
            raise MienError(
                f"the model gave a value that is not a finite number for {self._video.uri}: its weights are broken"
                " or overflow in this precision; try float32, or another bundle"
            )
        return predictions

    def _give(self, group: _Group, slots: NDArray[np.int64], predictions: NDArray) -> None:
        """Gives the group's predictions [x, K] to the waiting faces with the numbers `slots` [x]."""
        for pending in self._pending:
            size = len(pending.faces.row)
            first, last = np.searchsorted(slots, (pending.slot, pending.slot + size))
            if first == last:
                continue
            if pending.predictions is None:
                pending.predictions = np.empty((size, len(self.columns)), np.float32)
            rows = slots[first:last] - pending.slot
            pending.predictions[rows[:, None], group.columns] = predictions[first:last]
            pending.given += int(last - first)

    def _leave(self) -> Iterator[tuple[FaceBatch, NDArray[np.float32]]]:
        def complete(pending: _Pending) -> bool:
            return pending.given == len(pending.faces.row) * len(self._groups)

        while self._pending and complete(self._pending[0]):
            pending = self._pending.popleft()
            if len(pending.faces):
                none = np.zeros((0, len(self.columns)), np.float32)
                yield pending.faces, none if pending.predictions is None else pending.predictions
