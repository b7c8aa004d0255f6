"""Every table's Arrow schema: the one place where columns, units, ranges and null rules are defined.

Tables are plain Parquet: lower-case scalar columns, float32 values, no Arrow extension types (reading one can run
code). Within a version the columns do not change, so that a reader may take them from any part; only `labels` may gain
nullable ones with a new dataset. Any other change needs a new `SCHEMA_VERSION`, which is in each path.
"""

from __future__ import annotations

import pyarrow as pa

from common.labels import ACTION_UNITS, ALL_EXPRESSIONS, EXPRESSION_COLUMNS, FURTHER_EXPRESSION_COLUMNS
from common.tasks import TASKS

SCHEMA_VERSION = 1

FACE_STATUSES = ("ok", "no_face", "low_quality")
OUTCOMES = ("ok", "partial", "failed")
REASONS = (
    "not_video",
    "unreadable",
    "encrypted",
    "no_video_stream",
    "decode_error",
    "decode_timeout",
    "memory_limit",
    "too_large",
    "worker_lost",
    "missing",
    "access_denied",
    "changed",
    "erased",
)

LANDMARKS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
LANDMARK_COLUMNS = tuple(f"{point}_{axis}" for point in LANDMARKS for axis in ("x", "y"))
BOX_COLUMNS = ("box_x0", "box_y0", "box_x1", "box_y1")


def _field(
    name: str, type_: pa.DataType, meaning: str, *, unit: str = "", range_: str = "", null: str = "never"
) -> pa.Field:
    metadata = {"meaning": meaning, "unit": unit, "range": range_, "null": null}
    return pa.field(name, type_, nullable=null != "never", metadata={k: v for k, v in metadata.items() if v})


_VIDEO_ID = _field("video_id", pa.string(), "first 32 hex digits of the SHA-256 of the video's canonical URI")
_URI = _field("uri", pa.string(), "canonical URI: absolute path, or s3://bucket/key")
_VIDEO_NAME = _field("video_name", pa.string(), "name of the video's file with its extension: the last part of uri")


def _frame(null: str = "never") -> pa.Field:
    return _field(
        "frame_index", pa.int32(), "number of the frame in presentation order, from 0", range_=">= 0", null=null
    )


_TIME = _field(
    "time_s", pa.float64(), "presentation time minus the container's start time, as a player shows it", unit="s"
)
_FRAME_DURATION = _field(
    "frame_duration_s",
    pa.float64(),
    "from this frame's time to that of the next frame which is in the table, of the last one to the end of the video",
    unit="s",
    range_=">= 0",
)
_KEYS = (_VIDEO_ID, _URI, _VIDEO_NAME, _frame(), _TIME, _FRAME_DURATION)


def _track(null: str) -> pa.Field:
    return _field(
        "track_id", pa.int32(), "one face through neighbouring frames of this video", range_=">= 0", null=null
    )


def _detection(null: str, null_score: str) -> list[pa.Field]:
    return [
        _field("det_score", pa.float32(), "the detector's confidence", range_="[0, 1]", null=null_score),
        *(
            _field(name, pa.float32(), "face box in the upright source frame, from its edge", unit="px", null=null)
            for name in BOX_COLUMNS
        ),
        _field(
            "yaw",
            pa.float32(),
            "roughly how far the head is turned; above 0, it looks to the right of the picture",
            unit="degree",
            range_="[-90, 90]",
            null=null_score,
        ),
        _field(
            "sharpness",
            pa.float32(),
            "variance of the Laplacian of the grey crop, at 112 px and without its rim; low: blurred, or a small face",
            unit="grey levels^2",
            range_=">= 0",
            null=null,
        ),
    ]


_NO_FACE = "no face in the frame"
_NOT_DETECTED = "no face in the frame, or a crop that a dataset ships"
_NO_PREDICTION = "no face, or the bundle lacks the task"
_NO_CLASS = "no face, or the bundle lacks the class"

SCORES = pa.schema(
    [
        *_KEYS,
        _track(_NO_FACE),
        _field("face_status", pa.string(), "whether the row has a face", range_=", ".join(FACE_STATUSES)),
        *_detection(_NO_FACE, _NO_FACE),
        _field("valence", pa.float32(), "unpleasant to pleasant", range_="[-1, 1]", null=_NO_PREDICTION),
        _field("arousal", pa.float32(), "calm to excited", range_="[-1, 1]", null=_NO_PREDICTION),
        *(
            _field(column, pa.float32(), f"probability of the expression {name}", range_="[0, 1]", null=_NO_CLASS)
            for name, column in zip(ALL_EXPRESSIONS, EXPRESSION_COLUMNS + FURTHER_EXPRESSION_COLUMNS, strict=True)
        ),
        _field(
            "expression",
            pa.string(),
            "the most probable expression",
            range_=", ".join(ALL_EXPRESSIONS),
            null=_NO_PREDICTION,
        ),
        *(
            _field(
                name,
                pa.float32(),
                f"probability that action unit {int(name[2:])} is active",
                range_="[0, 1]",
                null=_NO_CLASS,
            )
            for name in ACTION_UNITS
        ),
    ]
)

FACES = pa.schema(
    [
        *_KEYS,
        _track(_NO_FACE),
        _field(
            "face_status", pa.string(), "whether the row has a face fit for a model", range_=", ".join(FACE_STATUSES)
        ),
        *_detection(_NO_FACE, _NOT_DETECTED),
        *(
            _field(
                name,
                pa.float32(),
                "landmark in the upright source frame; right and left are the person's own",
                unit="px",
                null=_NOT_DETECTED,
            )
            for name in LANDMARK_COLUMNS
        ),
        _field("crop", pa.binary(), "the aligned face, square RGB, as JPEG", null=_NO_FACE),
    ]
)

_NOT_OPENED = "the file could not be opened"
_NO_CONTAINER = "the file could not be opened, or it is a dataset's picture"

VIDEOS = pa.schema(
    [
        _VIDEO_ID,
        _URI,
        _VIDEO_NAME,
        _field("model", pa.string(), "the folder model= of its scores", null="the job is one of mien ingest"),
        _field("version", pa.string(), "the object's ETag, or size and modification time of a file"),
        _field("status", pa.string(), "what became of the video", range_=", ".join(OUTCOMES)),
        _field("reason", pa.string(), "why it is partial or failed", range_=", ".join(REASONS), null="status is ok"),
        _field("message", pa.string(), "the reason in a sentence", null="status is ok"),
        _field("container", pa.string(), "container format as FFmpeg names it", null=_NO_CONTAINER),
        _field("codec", pa.string(), "video codec as FFmpeg names it", null=_NO_CONTAINER),
        _field("width", pa.int32(), "width of the upright picture", unit="px", null=_NOT_OPENED),
        _field("height", pa.int32(), "height of the upright picture", unit="px", null=_NOT_OPENED),
        _field("fps", pa.float32(), "average frame rate that the container states", unit="1/s", null="not stated"),
        _field(
            "rotation",
            pa.int16(),
            "clockwise turn that was applied to make the picture upright",
            unit="degree",
            null=_NOT_OPENED,
        ),
        _field("size", pa.int64(), "size of the object", unit="byte"),
        _field("frames", pa.int32(), "decoded frames", range_=">= 0"),
        _field("frames_with_face", pa.int32(), "decoded frames with at least one face", range_=">= 0"),
        _field("tracks", pa.int32(), "tracks found", range_=">= 0"),
        _field(
            "duration_s",
            pa.float64(),
            "from the first frame's time to the end of the last",
            unit="s",
            null="no frame was decoded",
        ),
        _field("decoder", pa.string(), "decoder that was used", null=_NOT_OPENED),
        _field("attempts", pa.int16(), "times the video was started, killed workers included", range_=">= 1"),
        _field("wall_s", pa.float32(), "time of the attempt that counts", unit="s"),
        _field("run_id", pa.string(), "the run that finished the video"),
        _field("code_version", pa.string(), "version of mien"),
        _field("finished_at", pa.timestamp("us", tz="UTC"), "when the video was finished"),
    ]
)

_NOT_ANNOTATED = "not annotated"

LABELS = pa.schema(
    [
        _field("video", pa.string(), "what was annotated: a video, a person in it, a picture or a clip"),
        _field(
            "base_video",
            pa.string(),
            "name of the video's, picture's or clip's file without extension; with the folders before it where names "
            "repeat",
        ),
        _field(
            "subject", pa.string(), "which of two people the annotation is of", range_="left, right", null="one person"
        ),
        _frame(null="clip is set"),
        _field(
            "clip",
            pa.string(),
            "name of the clip that the annotation is of as a whole, all of its frames",
            null="frame_index is set",
        ),
        _field("valence", pa.float32(), "unpleasant to pleasant", range_="[-1, 1]", null=_NOT_ANNOTATED),
        _field("arousal", pa.float32(), "calm to excited", range_="[-1, 1]", null=_NOT_ANNOTATED),
        _field(
            "expression", pa.string(), "annotated expression", range_=", ".join(ALL_EXPRESSIONS), null=_NOT_ANNOTATED
        ),
        _field(
            "votes",
            pa.int32(),
            "how many annotators chose the expression",
            range_=">= 0",
            null="not annotated, or the dataset does not say",
        ),
        *(
            _field(
                name, pa.int8(), f"whether action unit {int(name[2:])} is active", range_="0, 1", null=_NOT_ANNOTATED
            )
            for name in ACTION_UNITS
        ),
        *(
            _field(
                f"split_{task}",
                pa.string(),
                f"official split of the {task} task, of DFEW and MAFW that of their first fold; the only part that is "
                "held out is validation",
                range_="train, validation, test",
                null="not in the task",
            )
            for task in TASKS
        ),
        _field(
            "fold",
            pa.int8(),
            "fold of cross-validation in which the video validates: the official one of DFEW and MAFW; else 1 to 4, "
            "by the SHA-256 of base_video, as fold 0 is the official split",
            range_="0 to 4",
        ),
    ]
)

TABLES = {"scores": SCORES, "faces": FACES, "videos": VIDEOS, "labels": LABELS}
ABOUT = {
    "scores": "A row is a face in a frame, or a frame without one. Every decoded frame has at least one row.",
    "faces": "A row is a face in a frame, with its aligned crop, or a frame without one.",
    "videos": "A row is a planned video and what became of it, per job.",
    "labels": "A row is an annotated frame or clip of a dataset; either frame_index or clip is set, never both.",
}
# The folders between a table's version and its parts, which readers show as further columns.
_ARCHIVE = {"archive": "name of the archive, as --archive gave it"}
FOLDERS = {
    "scores": {"model": "name and id of the bundle, and a digest of the options that change rows", **_ARCHIVE},
    "faces": {"ingest": "digest of the options that the faces were found with", **_ARCHIVE},
    "videos": {"job": "the job that did the video: `score-` and a model, or `ingest-` and an ingest", **_ARCHIVE},
    "labels": {"dataset": "name of the dataset"},
}
# The order of the rows in a part, as far as the table has these columns.
SORTED_BY = ("video_id", "frame_index", "track_id")
LABELS_SORTED_BY = ("video", "clip", "frame_index")
