"""The tables as analysts were promised them."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from common import labels
from common.lake import page, schema

ROOT = Path(__file__).resolve().parents[3]
EVERY_COLUMN = [
    pytest.param(table, field, id=f"{table}.{field.name}") for table in schema.TABLES for field in schema.TABLES[table]
]


def test_the_page_of_tables_is_generated_from_the_schema() -> None:
    assert (ROOT / "docs" / "tables.md").read_text() == page.to_markdown(), "run `make docs`"


def test_every_table_is_said_in_a_sentence() -> None:
    assert schema.ABOUT.keys() == schema.TABLES.keys()


@pytest.mark.parametrize(("table", "field"), EVERY_COLUMN)
def test_columns_are_lower_case_plain_scalars(table: str, field: pa.Field) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", field.name)
    assert not isinstance(field.type, pa.BaseExtensionType)
    assert not pa.types.is_nested(field.type)
    assert not pa.types.is_dictionary(field.type)
    # Parquet readers disagree about half floats and unsigned integers.
    assert not pa.types.is_float16(field.type)
    assert not pa.types.is_unsigned_integer(field.type)


@pytest.mark.parametrize(("table", "field"), EVERY_COLUMN)
def test_columns_say_what_they_mean_and_when_they_are_null(table: str, field: pa.Field) -> None:
    about = field.metadata
    assert about[b"meaning"]
    assert field.nullable == (about[b"null"] != b"never")


@pytest.mark.parametrize(("table", "field"), EVERY_COLUMN)
def test_only_times_and_sizes_are_wider_than_32_bits(table: str, field: pa.Field) -> None:
    if pa.types.is_float64(field.type):
        assert field.name.endswith("_s")
    if pa.types.is_int64(field.type):
        assert field.metadata[b"unit"] == b"byte"


def test_scores_have_a_column_for_every_class_in_the_heads_order() -> None:
    names = schema.SCORES.names
    first = names.index("valence")
    assert names[first : first + 2] == ["valence", "arousal"]
    expressions = [name.removeprefix("expr_") for name in names if name.startswith("expr_")]
    assert expressions == list(labels.ALL_EXPRESSIONS)
    assert [name for name in names if re.fullmatch(r"au\d\d", name)] == list(labels.ACTION_UNITS)


def test_the_classes_are_those_of_aff_wild2() -> None:
    assert (
        *("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other"),
    ) == labels.EXPRESSIONS
    assert [int(name[2:]) for name in labels.ACTION_UNITS] == [1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26]


def test_predictions_are_nullable_float32_and_labels_share_their_names() -> None:
    predicted = ["valence", "arousal", *labels.EXPRESSION_COLUMNS, *labels.ACTION_UNITS]
    for name in predicted:
        field = schema.SCORES.field(name)
        assert field.type == pa.float32()
        assert field.nullable
    for name in ("valence", "arousal", "expression", *labels.ACTION_UNITS):
        assert schema.LABELS.field(name).nullable


def test_rows_have_an_order_that_every_per_frame_table_can_follow() -> None:
    for table in (schema.SCORES, schema.FACES):
        assert set(schema.SORTED_BY) <= set(table.names)


def test_the_vocabularies_are_documented_where_they_are_used() -> None:
    ranges = {field.name: field.metadata.get(b"range", b"").decode() for field in schema.VIDEOS}
    assert ranges["status"].split(", ") == list(schema.OUTCOMES)
    assert ranges["reason"].split(", ") == list(schema.REASONS)
