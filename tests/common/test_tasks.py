"""What a task is: names, columns, marks and activations, against the tables and the labels that exist."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from common.labels import ACTION_UNITS, EXPRESSIONS
from common.lake.schema import LABELS, SCORES
from common.tasks import TASKS

LABELLED = pd.DataFrame(
    {
        "valence": pd.array([0.5, None, -1.0], "Float32"),
        "arousal": pd.array([0.25, None, None], "Float32"),
        "expression": ["surprise", None, "contempt"],
        **{unit: pd.array([1, None, 0], "Int8") for unit in ACTION_UNITS},
    }
)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_annotations_are_columns_of_labels_and_outputs_columns_of_scores(task) -> None:
    assert set(task.label_columns) <= set(LABELS.names)
    assert set(task.columns(task.known)) <= set(SCORES.names)
    assert task.known[: len(task.outputs)] == task.outputs
    assert len(set(task.known)) == len(task.known)


def test_targets_hold_the_annotations_and_a_mark_where_there_are_none() -> None:
    np.testing.assert_array_equal(TASKS["va"].targets(LABELLED), np.float32([[0.5, 0.25], [np.nan] * 2, [-1, np.nan]]))
    assert TASKS["au"].targets(LABELLED).tolist() == [[1] * 12, [-1] * 12, [0] * 12]
    assert TASKS["expr"].targets(LABELLED)[:2].tolist() == [EXPRESSIONS.index("surprise"), -1]


def test_a_class_that_heads_do_not_give_counts_as_not_annotated() -> None:
    assert TASKS["expr"].targets(LABELLED)[2] == -1


@pytest.mark.parametrize(("task", "expected"), [("va", [1, 0, 1]), ("expr", [1, 0, 0]), ("au", [1, 0, 1])])
def test_a_face_is_annotated_when_any_value_is(task: str, expected: list[int]) -> None:
    assert TASKS[task].annotated(TASKS[task].targets(LABELLED)).tolist() == [bool(each) for each in expected]


def test_published_values_are_in_their_ranges() -> None:
    values = 5 * torch.randn(4, 3, 7)
    found = TASKS["va"].activate(values)
    inside = values.abs() <= 1
    assert found.abs().max() <= 1
    assert torch.equal(found[inside], values[inside])
    torch.testing.assert_close(TASKS["expr"].activate(values).sum(-1), torch.ones(4, 3))
    units = TASKS["au"].activate(values)
    assert torch.equal(units >= TASKS["au"].threshold, values >= 0)
    assert ((units >= 0) & (units <= 1)).all()
