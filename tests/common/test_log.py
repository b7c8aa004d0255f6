"""Logs: one line an event on stderr, and no secret in any of them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import log

CANARY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEY_ID = "AKIAIOSFODNN7EXAMPLE"


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    log.configure(json=True)

    def read() -> list[dict[str, Any]]:
        captured = capsys.readouterr()
        assert captured.out == ""
        return [json.loads(line) for line in captured.err.splitlines()]

    return read


def test_an_event_is_one_json_line_on_stderr_with_time_level_and_logger(lines: Any) -> None:
    log.get("worker").info("opened", uri="s3://b/k", frames=3)
    (line,) = lines()
    assert line["event"] == "opened"
    assert line["uri"] == "s3://b/k"
    assert line["frames"] == 3
    assert line["level"] == "info"
    assert line["logger"] == "mien.worker"
    assert line["timestamp"].endswith("Z")


def test_on_a_terminal_the_line_is_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    log.configure(json=False)
    log.get("worker").info("opened", frames=3)
    line = capsys.readouterr().err
    assert "opened" in line
    assert "frames=3" in line
    assert "\x1b" not in line


def test_configuring_again_does_not_write_twice(lines: Any) -> None:
    log.configure(json=True)
    log.get("worker").info("once")
    assert len(lines()) == 1


@pytest.mark.parametrize("name", ["botocore", "s3fs", "ray", "deepspeed", "matplotlib", "any.other"])
def test_warnings_and_errors_of_libraries_are_logged_in_the_same_form(lines: Any, name: str) -> None:
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble with %s", KEY_ID)
    (line,) = lines()
    assert line["event"] == f"trouble with {log.HIDDEN}"
    assert line["level"] == "warning"


def test_a_library_with_a_handler_of_its_own_is_taken_over(lines: Any) -> None:
    library = logging.getLogger("own-handler")
    library.propagate = False
    library.addHandler(logging.StreamHandler(sys.stdout))
    log.adopt("own-handler")
    library.warning("trouble")
    (line,) = lines()
    assert line["event"] == "trouble"


def test_python_warnings_are_logged_in_the_same_form(lines: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.configure(json=True)
        warnings.warn(f"old key {KEY_ID}", stacklevel=1)
    logging.captureWarnings(False)
    (line,) = lines()
    assert KEY_ID not in line["event"]
    assert line["logger"] == "py.warnings"


@pytest.mark.parametrize(
    "key",
    ["token", "RAY_AUTH_TOKEN", "aws_secret_access_key", "password", "Authorization", "credentials", "x-amz-signature"],
)
def test_values_under_secret_keys_are_hidden_at_any_depth(lines: Any, key: str) -> None:
    log.get("x").info("e", **{key: "canary-1"}, outer=[{"inner": {key: ["canary-2"]}}])
    (line,) = lines()
    assert "canary" not in json.dumps(line)
    assert line[key] == log.HIDDEN


def test_a_count_under_such_a_key_is_no_secret(lines: Any) -> None:
    log.get("x").info("e", tokens=197, token=None)
    (line,) = lines()
    assert line["tokens"] == 197
    assert line["token"] is None


SECRET_TEXTS = [
    f"key {KEY_ID} was refused",
    "GET https://b.s3.example/k?X-Amz-Credential=canary%2F20250101&X-Amz-Signature=canary&x=1",
    "https://b.s3.example/k?X-Amz-Security-Token=canary",
    "s3://canary:canary@bucket/key",
    f"s3://{KEY_ID}:canary/K7MDENG/b@bucket/key",
    "Authorization: AWS4-HMAC-SHA256 Credential=canary/20250101, Signature=canary",
    "{'Authorization': 'Bearer canary'}",
    "aws_secret_access_key=canary",
    'login {"password": "canary"} failed',
    "token: canary",
    "bearer canary",
]


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_secrets_inside_texts_are_hidden_wherever_the_text_stands(lines: Any, text: str) -> None:
    logger = log.get("x")
    logger.info(text, value=text, bytes_=text.encode(), nested={"a": (text,)}, thing=ValueError(text))
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("failed")
        logging.getLogger("botocore").exception("failed %s", text)
    written = json.dumps(lines())
    assert "canary" not in written
    assert KEY_ID not in written
    assert "RuntimeError" in written


def test_what_is_not_secret_of_a_presigned_url_stays(lines: Any) -> None:
    log.get("x").info("get", url="https://h/key.mp4?X-Amz-Signature=abc&partNumber=7")
    (line,) = lines()
    assert line["url"] == f"https://h/key.mp4?X-Amz-Signature={log.HIDDEN}&partNumber=7"


def test_the_environments_own_secrets_are_hidden_in_any_shape(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    log.get("x").warning(f"what is {CANARY}?", cause=OSError(5, CANARY))
    (line,) = lines()
    assert CANARY not in json.dumps(line)
    assert line["event"] == f"what is {log.HIDDEN}?"


@pytest.mark.parametrize("uri", ["s3://bucket/a@b.mp4", "http://host:9000/bucket/a@b.mp4", "s3://bucket/a:b@c/d.mp4"])
def test_an_at_sign_in_a_key_hides_nothing_of_the_url(uri: str) -> None:
    assert log.redact(f"opened {uri}") == f"opened {uri}"


def test_a_secret_that_looks_like_a_path_is_hidden_and_a_path_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"/{CANARY}")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path))
    assert log.redact(f"/{CANARY} of {tmp_path}") == f"{log.HIDDEN} of {tmp_path}"


def test_an_exceptions_local_variables_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (True, False):
        log.configure(json=as_json)
        local = "".join(["cana", "ry"])
        try:
            raise ValueError("no")
        except ValueError:
            log.get("x").exception("failed")
        assert local not in capsys.readouterr().err


@given(st.text(alphabet=st.characters(codec="ascii", categories=["Ll", "Nd"]), max_size=40))
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert log.redact(f"/archive/{text}.mp4 has 12 frames") == f"/archive/{text}.mp4 has 12 frames"


def test_redacting_twice_changes_nothing_more() -> None:
    for text in SECRET_TEXTS:
        assert log.redact(log.redact(text)) == log.redact(text)


def test_without_configuration_nothing_goes_to_stdout() -> None:
    program = "from common import log; log.get('x').info('quiet'); log.get('x').warning('loud')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "loud" in done.stderr
