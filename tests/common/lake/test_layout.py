"""Where things live in a lake, and which names may stand in its paths."""

from __future__ import annotations

import pytest

from common.errors import UsageError
from common.lake.layout import Lake, Partition, check_archive_name

SCORES = Partition("scores", (("model", "demo-3f"), ("archive", "clips")))
UNIT = "u" + "0" * 31


@pytest.mark.parametrize("name", ["clips", "a", "clips_2024-b"])
def test_archive_names_are_small_letters_digits_underscore_and_dash(name: str) -> None:
    assert check_archive_name(name) == name


@pytest.mark.parametrize("name", ["", "2024", "Clips", "a b", "a/b", "../a", "a=b", "é", "a\n", "_a"])
def test_other_archive_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="archive"):
        check_archive_name(name)


@pytest.mark.parametrize("word", ["null", "none", "nil", "na", "nan", "inf", "infinity", "true", "false"])
def test_words_that_an_engine_takes_for_a_value_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match=f"'{word}' cannot be an archive's name"):
        check_archive_name(word)
    for spelling in (word, word.upper(), word.capitalize()):
        with pytest.raises(UsageError, match=spelling):
            Partition("labels", (("dataset", spelling),))
    assert check_archive_name(f"{word}_tapes") == f"{word}_tapes"


@pytest.mark.parametrize("value", ["", "7", "1e5", "a/b", "..", "a=b", "a b", "__HIVE_DEFAULT_PARTITION__"])
def test_a_partition_value_that_breaks_a_path_is_refused(value: str) -> None:
    with pytest.raises(UsageError):
        Partition("scores", (("model", value),))


def test_tables_and_bookkeeping_live_where_the_design_says() -> None:
    lake = Lake("/lake")
    path = "schema=1/model=demo-3f/archive=clips"
    assert SCORES.path == path
    assert lake.part_key(SCORES, UNIT) == f"scores/{path}/part-{UNIT}.parquet"
    assert lake.part_key(SCORES, UNIT, 7) == f"scores/{path}/part-{UNIT}-00007.parquet"
    assert lake.plan_key(SCORES, 3) == f"_plans/scores/{path}/00000003.parquet"
    assert lake.ledger_key(SCORES, UNIT) == f"_ledger/scores/{path}/{UNIT}.json"
    outside = [
        lake.plan_prefix(SCORES),
        lake.ledger_prefix(SCORES),
        lake.staging_prefix(SCORES, UNIT),
        lake.strikes_prefix(SCORES, UNIT),
        lake.config_key(SCORES),
        lake.run_key("r1"),
    ]
    assert all(key.startswith("_") for key in outside)


def test_outcomes_have_a_partition_of_their_own() -> None:
    assert SCORES.videos == Partition("videos", (("job", "score-demo-3f"), ("archive", "clips")))
    faces = Partition("faces", (("ingest", "i-1"), ("archive", "clips")))
    assert faces.videos == Partition("videos", (("job", "ingest-i-1"), ("archive", "clips")))


@pytest.mark.parametrize("data", [SCORES, Partition("faces", (("ingest", "i-1"), ("archive", "score-a")))])
def test_the_job_of_outcomes_leads_back_to_the_rows_it_makes(data: Partition) -> None:
    assert data.videos["job"] == data.job
    assert data.videos.data == data.data == data


@pytest.mark.parametrize("partition", [SCORES, SCORES.videos, Partition("labels", (("dataset", "synth"),))])
def test_a_folder_is_read_as_the_partition_that_it_is_of(partition: Partition) -> None:
    assert Partition.parse(str(partition)) == partition


@pytest.mark.parametrize(
    "folder",
    [
        *("", "scores", "scores/schema=1", "scores/schema=2/model=m/archive=a", "scores/schema=1/model=m"),
        *("scores/schema=1/archive=a/model=m", "scores/schema=1/model=m/archive=a/x=y", "other/schema=1/model=m"),
        *("scores/schema=1/model=7/archive=a", "scores/schema=1/model=m/archive=", "scores/schema=1/model=m/archive"),
    ],
)
def test_other_folders_are_no_partition(folder: str) -> None:
    assert Partition.parse(folder) is None


@pytest.mark.parametrize("where", ["local", "s3"])
def test_partitions_are_those_with_a_part_or_a_plan_and_no_foreign_folders(
    where: str, request: pytest.FixtureRequest
) -> None:
    lake = Lake(str(request.getfixturevalue("tmp_path")) if where == "local" else request.getfixturevalue("s3_url"))
    planned = Partition("scores", (("model", "other-1"), ("archive", "tapes")))
    assert lake.partitions("scores") == []
    lake.store.create(lake.part_key(SCORES, UNIT), b"x")
    lake.store.create(lake.part_key(SCORES, "u2"), b"x")
    lake.store.create(lake.plan_key(planned, 1), b"x")
    for foreign in ("model=7x/archive=clips/a", "model=m-1/a", "a=b/c=d/a", "model=m/archive=b/other=c/a", "_SUCCESS"):
        lake.store.create(f"scores/schema=1/{foreign}", b"x")
    lake.store.create(lake.ledger_key(Partition("faces", (("ingest", "i-1"),)), UNIT), b"x")
    assert lake.partitions("scores") == [SCORES, planned]
    assert lake.partitions("faces") == []
