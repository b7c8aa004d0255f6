"""Errors whose message is for the user: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class MienError(Exception):
    """The job itself failed. The message is shown without a traceback; the command exits with `exit_code`."""

    exit_code = 1


class UsageError(MienError):
    """Wrong usage, path, configuration or bundle: nothing was started, nothing written."""

    exit_code = 2


class StoreError(MienError):
    """The storage refused or could not be reached after retries."""


class AlreadyExists(StoreError):
    """A create-only put found an object under its key."""


class NotFound(StoreError):
    """There is no object under this key."""


class AccessDenied(StoreError):
    """The storage refused the credentials, or the permissions do not allow it."""


class PreconditionFailed(StoreError):
    """A conditional put or read found another version than the one it named."""


class CommitConflict(MienError):
    """An object under a unit's key was not written for that unit. It is never overwritten: a person must look at it."""


class JobStalled(MienError):
    """No frame was decoded and no video finished for longer than the watchdog allows."""


class VideoError(Exception):
    """One video cannot be processed. It becomes the video's `failed` outcome and never stops a job.

    `reason` is one of `common.lake.schema.REASONS`; `message` is a sentence for the `videos` table.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class DecoderKilled(VideoError):
    """The decoder process of a video was killed: by the kernel for lack of memory, or by somebody else.

    One such death says nothing about the video, so another attempt is made. If every attempt ends like this, the video
    fails with `reason`.
    """
