"""The messages of a decoder process to its parent, checked strictly: a hostile video may control that process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import VideoError
from common.lake.schema import REASONS

TEXT = 300  # characters of a sentence


def printable(text: str) -> str:
    """The beginning of a child's text, without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:TEXT])


def _known(reason: str) -> str:
    if reason not in REASONS:
        raise ValueError("no reason")
    return reason


_Text = Annotated[str, AfterValidator(printable)]
_Reason = Annotated[str, AfterValidator(_known)]
_Side = Annotated[int, Field(gt=0, lt=1 << 20)]
_Seconds = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class VideoFacts:
    """Facts about a video. `width` and `height` are those of the first coded picture, turned upright, before its pixels
    are made square: x * width / rgb.shape[2] and y * height / rgb.shape[1] convert a point of `rgb` to its pixels.

    `rotation` is the clockwise turn that was applied, in degrees; `fps` is what the container states, or None.
    """

    container: _Text
    codec: _Text
    width: _Side
    height: _Side
    fps: Annotated[_Seconds, Field(gt=0)] | None
    rotation: Literal[0, 90, 180, 270]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Opened(_Message):
    """The first message; `picture`: height and width of the pictures that will follow."""

    facts: VideoFacts
    picture: tuple[_Side, _Side]


class Given(_Message):
    """Frames in a slot of the shared memory. `until_s`: the time at which the next frame is shown or the video ends."""

    slot: int
    frame_index: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(min_length=1)
    time_s: list[_Seconds]
    until_s: _Seconds


class Alive(_Message):
    """A sign of life: `alive` steps of the work gave no frame."""

    alive: int = Field(gt=0)


class Verdict(_Message):
    reason: _Reason | None
    message: _Text | None
    duration_s: Annotated[_Seconds, Field(ge=0)]


class Ended(_Message):
    """The last message, when the video ended."""

    end: Verdict


class Failure(_Message):
    reason: _Reason
    message: _Text


class Failed(_Message):
    """The last message, when decoding failed."""

    error: Failure


Message = Opened | Given | Alive | Ended | Failed
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def heard(data: bytes) -> Message:
    """The message in a packet. Raises VideoError if it is not a valid message."""
    try:
        return _MESSAGE.validate_json(data)
    except ValidationError:
        raise nonsense() from None


def nonsense() -> VideoError:
    return VideoError("decode_error", "the decoder sent nonsense")
