"""The commands as a person runs them: answers on stdout, one sentence on stderr, the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundles import make_bundle
from lakes import put_part, sample_rows

from common.cli import main
from common.lake.format import KEY
from common.lake.layout import Lake
from score import doctor
from train.models.linear import LinearOptions
from train.models.vit import VitOptions


@pytest.fixture
def lake(tmp_path: Path) -> str:
    lake = Lake(str(tmp_path / "lake"))
    put_part(lake, "scores", "u1", sample_rows("scores", 6))
    return lake.url


def test_sql_prints_a_table_csv_or_json(lake: str, capsys: pytest.CaptureFixture) -> None:
    query = "SELECT frame_index, valence FROM scores ORDER BY frame_index LIMIT 3"
    assert main(["sql", lake, query]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "          0        0",
        "          1    0.125",
        "          2     NULL",
    ]
    assert main(["sql", lake, query, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines() == ["frame_index,valence", "0,0.0", "1,0.125", "2,"]
    assert main(["sql", lake, query, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [{"frame_index": 1, "valence": 0.125}, {"frame_index": 2, "valence": None}]


@pytest.mark.parametrize("query", ["SELEC", "SELECT * FROM nothing", "DROP VIEW scores", "SELECT 'a'::int"])
def test_bad_sql_is_one_sentence_and_exit_status_2(lake: str, query: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["sql", lake, query]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("command", [["status"], ["sql"]])
def test_no_lake_is_one_sentence_and_exit_status_2(command: list, tmp_path: Path, capsys) -> None:
    arguments = [*command, str(tmp_path / "no"), *(["SELECT 1"] if command == ["sql"] else [])]
    assert main(arguments) == 2
    assert "there is no lake at" in capsys.readouterr().err


def test_status_prints_text_or_one_json_object(lake: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["status", lake]) == 0
    assert "scores  model m-1a  archive clips" in capsys.readouterr().out
    assert main(["status", lake, "--json"]) == 0
    job = json.loads(capsys.readouterr().out.splitlines()[-1])["jobs"][0]
    assert (job["table"], job["rows"], job["todo"]) == ("scores", 6, 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["v.mp4", "--ingest", "i-1"], "--from-faces"),
        (["--from-faces", "--archive", "a", "--every", "2"], "decoder, detector"),
        (["--from-faces", "--archive", "a", "--detector", "mtcnn"], "decoder, detector"),
        ([], "name the videos to score, or --from-faces"),
    ],
)
def test_options_of_score_that_would_be_ignored_are_wrong_usage(options: list, sentence: str, capsys) -> None:
    assert main(["score", *options, "--lake", "/no/lake", "--model", "/no/bundle"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", [["--smooth", "box:1"], ["--smooth", "gauss:3"], ["--smooth", ""], ["--set", "smooth=50"]]
)
def test_a_smoothing_that_there_is_not_is_one_sentence_and_exit_status_2(given: list, tmp_path: Path, capsys) -> None:
    assert main(["score", "v.mp4", "--lake", str(tmp_path / "lake"), *given]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "'smooth' should be " in sentence
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("source", [["VIDEO"], ["--from-faces", "--archive", "clips"]])
def test_a_lake_of_an_earlier_version_is_not_scored_into(
    source: list[str], lake: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    encoder = VitOptions(image=16, channels=3, patch=8, dim=8, depth=1, heads=1)
    bundle = make_bundle(tmp_path / "bundle", encoder, LinearOptions(), {"crop": [0, 0, 16], "size": 16}, 16)
    Lake(lake).store.delete([KEY])
    (tmp_path / "a.mp4").write_bytes(b"x")
    given = [str(tmp_path / "a.mp4") if word == "VIDEO" else word for word in source]
    assert main(["score", *given, "--lake", lake, "--model", str(bundle.path)]) == 2
    assert f"the lake {lake} was made by an earlier version of mien" in capsys.readouterr().err


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_only_for_what_is_broken(
    state: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda lake: iter([doctor.Check("memory", state, "found: do this")]))
    assert main(["doctor"]) == code
    assert "found: do this" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["broken"] == (["memory"] if code else [])


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, score.cli\n"
        "print([m for m in ('torch', 'ray', 'duckdb', 'pyarrow', 'numpy', 'av', 'cv2') if m in sys.modules])"
    )
    started = time.monotonic()
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert time.monotonic() - started < 5
