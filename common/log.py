"""Structured logs on stderr: text on a terminal, JSON lines elsewhere, secrets removed from both.

One handler on the root logger writes all logs: our own, and the warnings and errors of libraries.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from common import environment

OURS = "mien"
HIDDEN = "[redacted]"

_SECRET_NAME = r"token|secret|password|passwd|authorization|credential|access_?key|api_?key|private_?key|x-amz-"
_SECRET_KEY = re.compile(_SECRET_NAME, re.IGNORECASE)
_SECRET_TEXTS = [
    (re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+"), r"\1" + HIDDEN),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]+"), r"\1" + HIDDEN),
    # s3://key:secret@bucket, https://user:password@host. AWS secrets may contain slashes; a port is not a secret.
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@'\"]+|[^\s/@:'\"]+:(?!\d+/)[^\s@'\"]+)@"), rf"\1{HIDDEN}@"),
    # The identifiers of AWS's long-lived and temporary keys.
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), HIDDEN),
    # X-Amz-Signature=... of a presigned URL; secret_access_key=..., "password": "..." in the text of an exception.
    (
        re.compile(
            rf"(?i)([\w-]*(?:{_SECRET_NAME})[\w-]*['\"]?\s*(?:[=:]|%3D)\s*['\"]?)(?!{re.escape(HIDDEN)})"
            r"[^\s'\",;&})\]]+"
        ),
        r"\1" + HIDDEN,
    ),
]
_MIN_SECRET = 8  # a shorter value would also match ordinary words


def redact(value: Any) -> Any:
    """`value` with its secrets replaced, also inside mappings and sequences. Other objects become redacted text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _redact_item(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _SECRET_TEXTS:
        text = pattern.sub(replacement, text)
    return text


def _redact_item(key: str, value: Any) -> Any:
    # A number under such a key is a count ("tokens"), not a secret.
    if _SECRET_KEY.search(key) and not (value is None or isinstance(value, bool | int | float)):
        return HIDDEN
    return redact(value)


def _environment_secrets() -> list[str]:
    secrets = {value for name, value in environment.values().items() if _SECRET_KEY.search(name) and _is_secret(value)}
    return sorted(secrets, key=len, reverse=True)


def _is_secret(value: str) -> bool:
    # Such a variable may also hold a switch, or the path of a file with the secret: these are not secrets. But not
    # everything with a slash in front is a path: AWS secret keys may begin with one.
    path = value.startswith("/") and os.path.exists(value)
    return len(value) >= _MIN_SECRET and not path and not value.isdigit()


def _redactor(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    # `_record` and the like are structlog's own, not part of what is written.
    return {key: value if key.startswith("_") else _redact_item(key, value) for key, value in event.items()}


def _plain_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The traceback as text, without the values of local variables."""
    return structlog.processors.format_exc_info(logger, method, event)


_SHARED: list[Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _plain_exception,
    _redactor,
]


class _StderrHandler(logging.Handler):
    """Writes to the current `sys.stderr`, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(self.format(record))
        except Exception:
            self.handleError(record)


def write(line: str) -> None:
    """Writes a line to stderr, above the progress bar if there is one."""
    if "tqdm" in sys.modules and sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)


def configure(json: bool | None = None) -> None:
    """Sends all logs to stderr; `json` None: JSON lines unless stderr is a terminal. May be called again."""
    if json is None:
        form = environment.MIEN_LOG.get()
        json = form == "json" if form else not sys.stderr.isatty()
    renderer: Processor
    if json:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=environment.NO_COLOR.get() is None, exception_formatter=structlog.dev.plain_traceback
        )
    handler = _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(logging.INFO)
    logging.captureWarnings(True)


def adopt(*names: str) -> None:
    """Removes the log handlers of these libraries, so that ours writes their logs. Call it after importing them."""
    for name in names:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.WARNING)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Our logger of this name: `get("worker").info("attempt failed", uri=uri)`."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(f"{OURS}.{name}"),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger
