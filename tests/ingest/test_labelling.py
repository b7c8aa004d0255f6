"""A dataset's annotations in the lake: put once, left alone, replaced whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from common.errors import StoreError, UsageError
from common.lake import parts
from common.lake.layout import Lake
from common.lake.schema import LABELS
from common.store.store import Store
from ingest import cli
from ingest.datasets import registry
from ingest.datasets.dataset import Tally
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


def test_many_rows_keep_their_order_across_row_groups(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROW_GROUP_ROWS", 65_536)
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
    sorted_by = [LABELS.names[column.column_index] for column in file.metadata.row_group(0).sorting_columns]
    assert sorted_by == ["video", "clip", "frame_index"]


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


TOY = """
import pyarrow as pa
from common.lake.schema import LABELS
from ingest.datasets.dataset import Dataset

def read(root, tally):
    for path in sorted(root.glob("*.txt")):
        rows = [dict(zip(("frame_index", "clip", "expression", "votes"), eval(line))) for line in path.open()]
        known = {"video": path.stem, "base_video": path.stem, "fold": 0}
        tally.annotations += len(rows)
        yield pa.Table.from_pylist([known | row for row in rows], schema=LABELS)

DATASET = Dataset("Toy", {}, "nowhere", read, lambda root, rows: iter([None] * len(rows)), lambda root: None)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A dataset that this file alone knows; gives what writes its videos' labels, as tuples."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "toy_dataset.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setitem(registry.DATASETS, "toy", "toy_dataset")
    (tmp_path / "toy").mkdir()

    def write(video, *rows):
        (tmp_path / "toy" / f"{video}.txt").write_text("\n".join(map(repr, rows)))
        return tmp_path / "toy"

    yield write
    sys.modules.pop("toy_dataset", None)


def test_a_dataset_that_is_registered_is_labelled_with_its_own_classes_clips_and_votes(toy, tmp_path):
    toy("a", (None, "a-1", "contempt", 7), (None, "a-2", "anxiety", 5))
    root = toy("b", (0, None, "neutral", None), (4, None, "helplessness", 2))
    lake = Lake(str(tmp_path / "lake"))
    assert label("toy", root, lake).rows == 4
    table = pq.ParquetFile(tmp_path / "lake/labels/schema=1/dataset=toy/part-labels.parquet").read()
    found = table.select(["video", "frame_index", "clip", "expression", "votes"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("a", None, "a-1", "contempt", 7),
        ("a", None, "a-2", "anxiety", 5),
        ("b", 0, None, "neutral", None),
        ("b", 4, None, "helplessness", 2),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((None, None, "fear", 1), "a frame or a clip"),
        ((3, "a-1", "fear", 1), "a frame or a clip"),
        ((0, None, "fear", 1), "out of order"),
    ],
)
def test_labels_that_break_the_promises_of_the_table_are_not_written(toy, tmp_path, row, problem):
    root = toy("a", (1, None, "fear", 1), row)
    with pytest.raises(ValueError, match=problem):
        label("toy", root, Lake(str(tmp_path / "lake")))
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
    counts = {"videos": 2, "annotations": 12, "rows": 12, "dropped": {}, "first": {}}
    expected = {"dataset": "synth", **counts, "outcome": "created"}
    assert (labelled.exit_code, json.loads(labelled.output)) == (0, expected)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """FER2013 with one picture twice."""
    rows = [f"3,{' '.join([grey] * 2304)},Training" for grey in ("10", "20", "10")]
    (tmp_path / "fer").mkdir()
    (tmp_path / "fer" / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    return tmp_path / "fer"


def test_what_is_dropped_is_counted_by_reason_and_says_where_the_first_one_is(pictures, tmp_path):
    arguments = ["fer2013", str(pictures), "--lake", str(tmp_path / "lake")]
    reason = "a repetition of the same picture or clip"
    where = f"{pictures}/fer2013.csv, line 4: fer0000000"
    told = CliRunner().invoke(cli.label, arguments)
    assert told.output.splitlines() == [
        "fer2013: 2 rows of 2 videos from 3 annotations, created",
        f"  1 dropped: {reason} (first: {where})",
    ]
    told = json.loads(CliRunner().invoke(cli.label, [*arguments, "--json"]).output)
    assert (told["annotations"], told["rows"], told["outcome"]) == (3, 2, "unchanged")
    assert (told["dropped"], told["first"]) == ({reason: 1}, {reason: where})


def test_a_reader_that_loses_a_row_without_a_reason_is_found_out(toy, tmp_path, monkeypatch):
    root = toy("a", (0, None, "fear", 1))
    monkeypatch.setattr("ingest.labelling.Tally", lambda: Tally(annotations=1))
    with pytest.raises(ValueError, match="2 annotations, 1 rows"):
        label("toy", root, Lake(str(tmp_path / "lake")))
    assert not (tmp_path / "lake").exists()


def test_a_dataset_of_which_nothing_is_left_is_refused(pictures, tmp_path):
    (pictures / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    with pytest.raises(UsageError, match="no annotation that can be used"):
        label("fer2013", pictures, Lake(str(tmp_path / "lake")))


def test_a_check_draws_the_sheet_and_makes_no_lake(pictures, tmp_path):
    out = tmp_path / "sheet.png"
    told = CliRunner().invoke(cli.label, ["fer2013", str(pictures), "--check", str(out), "--json"])
    assert json.loads(told.output) == {"dataset": "fer2013", "sheet": str(out), "classes": {"happiness": 2}}
    assert out.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fer", "sheet.png"]


@pytest.mark.parametrize("dataset", sorted(registry.DATASETS))
def test_every_dataset_says_which_files_it_has_and_where_they_are_asked_for(dataset):
    told = CliRunner().invoke(cli.label, [dataset, "--describe"])
    assert told.exit_code == 0
    assert "http" in told.output.splitlines()[0]
    facts = json.loads(CliRunner().invoke(cli.label, [dataset, "--describe", "--json"]).output)
    assert facts["files"]
    assert all(path in told.output and what in told.output for path, what in facts["files"].items())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rafdb", "ROOT"], "Give one of --lake, --check and --describe"),
        (["rafdb", "ROOT", "--lake", "l", "--describe"], "Give one of --lake, --check and --describe"),
        (["rafdb", "--lake", "l"], "Missing argument 'ROOT'"),
    ],
)
def test_a_command_that_says_too_little_or_too_much_is_refused(arguments, said):
    told = CliRunner().invoke(cli.label, arguments)
    assert told.exit_code == 2
    assert said in told.output
