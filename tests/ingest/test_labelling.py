"""A dataset's annotations in the lake: put once, left alone, replaced whole."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from common.errors import StoreError, UsageError
from common.lake.layout import Lake
from common.lake.schema import LABELS
from common.store.store import Store
from ingest import cli
from ingest.labelling import label

KEY = "labels/schema=1/dataset=affwild2/part-labels.parquet"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "affwild2" / "6th_ABAW_Annotations" / "VA_Estimation_Challenge" / "Train_Set"
    folder.mkdir(parents=True)
    (folder / "b.txt").write_text("valence,arousal\n0.5,0.25\n-5,-5\n")
    (folder / "a_left.txt").write_text("valence,arousal\n-0.5,1\n")
    return tmp_path / "affwild2"


def annotations(dataset: Path) -> Path:
    return dataset / "6th_ABAW_Annotations" / "VA_Estimation_Challenge" / "Train_Set"


def test_labels_are_rows_of_the_published_schema_by_video_and_frame(dataset, tmp_path):
    done = label("affwild2", dataset, Lake(str(tmp_path / "lake")))
    assert (done.dataset, done.videos, done.rows, done.outcome) == ("affwild2", 2, 3, "created")
    table = pq.ParquetFile(tmp_path / "lake" / KEY).read()
    assert table.schema.remove_metadata().equals(LABELS.remove_metadata())
    rows = table.to_pylist()
    assert [(row["base_video"], row["subject"], row["frame_index"]) for row in rows] == [
        ("a", "left", 0),
        ("b", None, 0),
        ("b", None, 1),
    ]
    assert [row["valence"] for row in rows] == [-0.5, 0.5, None]


def test_a_second_run_over_the_same_files_writes_nothing(dataset, tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    label("affwild2", dataset, lake)
    before = list(lake.store.list())
    done = label("affwild2", dataset, lake)
    assert done.outcome == "unchanged"
    assert list(lake.store.list()) == before


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_after_a_change_a_glob_sees_the_new_rows_and_no_old_one(dataset, tmp_path, change):
    lake = Lake(str(tmp_path / "lake"))
    label("affwild2", dataset, lake)
    if change == "remove":
        (annotations(dataset) / "b.txt").unlink()
    else:
        name = {"edit": "b.txt", "add": "c.txt"}[change]
        (annotations(dataset) / name).write_text("valence,arousal\n0.125,0.125\n")
    done = label("affwild2", dataset, lake)
    assert done.outcome == "replaced"
    found = duckdb.sql(f"select video, valence from read_parquet('{tmp_path}/lake/labels/**/*.parquet') order by all")
    expected = {
        "edit": [("a_left", -0.5), ("b", 0.125)],
        "add": [("a_left", -0.5), ("b", 0.5), ("b", None), ("c", 0.125)],
        "remove": [("a_left", -0.5)],
    }
    assert found.fetchall() == expected[change]


def test_many_rows_keep_their_order_across_row_groups(dataset, tmp_path):
    for number in range(3):
        lines = "\n".join(f"{frame / 40000:.5f},0" for frame in range(40_000))
        (annotations(dataset) / f"long{number}.txt").write_text(f"valence,arousal\n{lines}\n")
    done = label("affwild2", dataset, Lake(str(tmp_path / "lake")))
    assert done.rows == 120_003
    file = pq.ParquetFile(tmp_path / "lake" / KEY)
    assert file.num_row_groups > 1
    keys = [(row["video"], row["frame_index"]) for row in file.read(["video", "frame_index"]).to_pylist()]
    assert keys == sorted(keys)
    assert len(set(keys)) == 120_003


def test_datasets_lie_side_by_side(dataset, tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    label("affwild2", dataset, lake)
    label("synth", dataset, lake)
    found = duckdb.sql(f"select dataset, count(*) from read_parquet('{tmp_path}/lake/labels/**/*.parquet') group by 1")
    assert sorted(found.fetchall()) == [("affwild2", 3), ("synth", 3)]


def test_the_loser_of_a_race_says_so_and_changes_nothing(dataset, tmp_path, monkeypatch):
    lake = Lake(str(tmp_path / "lake"))
    label("affwild2", dataset, lake)
    (annotations(dataset) / "b.txt").write_text("valence,arousal\n1,1\n")
    stat = Store.stat

    def overtaken(store: Store, key: str):
        entry = stat(store, key)
        Path(store.url, key).write_bytes(Path(store.url, key).read_bytes() + b" ")
        return entry

    winner = Path(tmp_path / "lake" / KEY).read_bytes() + b" "
    monkeypatch.setattr(Store, "stat", overtaken)
    monkeypatch.setattr("ingest.labelling._content", lambda lake, key: "another")
    with pytest.raises(StoreError, match="run the command again"):
        label("affwild2", dataset, lake)
    assert Path(tmp_path / "lake" / KEY).read_bytes() == winner


@pytest.mark.parametrize("fault", ["unknown dataset", "no folder", "no annotations", "bad line"])
def test_wrong_use_is_one_sentence_and_writes_nothing(dataset, tmp_path, fault):
    name, root = "affwild2", dataset
    if fault == "unknown dataset":
        name = "affwild3"
    elif fault == "no folder":
        root = tmp_path / "nowhere"
    elif fault == "no annotations":
        root = tmp_path
    else:
        (annotations(dataset) / "b.txt").write_text("valence,arousal\nhigh,low\n")
    with pytest.raises(UsageError):
        label(name, root, Lake(str(tmp_path / "lake")))
    assert not (tmp_path / "lake").exists()


def test_the_same_rows_on_s3(dataset, tmp_path, s3_url):
    lake = Lake(f"{s3_url}/lake")
    assert label("affwild2", dataset, lake).outcome == "created"
    assert label("affwild2", dataset, lake).outcome == "unchanged"
    (annotations(dataset) / "b.txt").unlink()
    assert label("affwild2", dataset, lake).outcome == "replaced"
    with lake.store.open_input(KEY) as file:
        assert pq.read_table(file)["video"].to_pylist() == ["a_left"]


def test_the_commands_make_clips_and_label_them(tmp_path):
    runner = CliRunner()
    made = runner.invoke(cli.synth, [str(tmp_path / "c"), "--videos", "2", "--seconds", "0.2", "--json"])
    assert (made.exit_code, json.loads(made.output)) == (0, {"videos": 2, "held_out": 0, "frames": 12})
    labelled = runner.invoke(cli.label, ["synth", str(tmp_path / "c"), "--lake", str(tmp_path / "lake"), "--json"])
    expected = {"dataset": "synth", "videos": 2, "rows": 12, "outcome": "created"}
    assert (labelled.exit_code, json.loads(labelled.output)) == (0, expected)
