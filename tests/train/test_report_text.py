"""What `mien train` and `mien evaluate` print of the metrics."""

from __future__ import annotations

from typing import Any

from train.report_text import as_text


def metrics(**changes: Any) -> dict[str, Any]:
    return {
        "ccc_valence": 0.5,
        "f1_expression": None,
        "f1_action_units": 0.4,
        "f1_au01": 0.3,
        "all_labelled": {"ccc_valence": 0.45},
        "per_video": {"ccc_valence": 0.25},
        "interval_95": {"ccc_valence": [0.1, 0.75]},
        "videos": {"va": 3, "au": 2},
        "frames": {"va": 120, "au": 80},
        "frames_all_labelled": {"va": 127, "au": 80},
        "frames_left_out": {"va": 9, "au": 0},
        "absent": {},
        "chance": {
            "ccc": 0.0,
            "expression_f1_majority": 0.05,
            "expression_f1_random": 0.1,
            "action_unit_f1_all_ones": 0.35,
            "action_unit_f1_random": 0.2,
        },
        **changes,
    }


def line(name: str, **changes: Any) -> str:
    (found,) = [each for each in as_text(metrics(**changes)).splitlines() if each.split()[:1] == [name]]
    return " ".join(found.split())


def test_a_metric_has_all_its_figures_in_one_line() -> None:
    assert line("ccc_valence") == "ccc_valence 0.500 0.100 .. 0.750 0.250 0.450 0.000"


def test_a_metric_without_further_figures_has_its_value_alone() -> None:
    assert line("f1_au01") == "f1_au01 0.300"


def test_chance_is_the_better_guess() -> None:
    assert line("f1_action_units") == "f1_action_units 0.400 0.350"


def test_a_metric_that_is_not_defined_says_so() -> None:
    assert line("f1_expression") == "f1_expression not defined 0.100"


def test_what_was_counted_and_what_was_not_is_said_of_each_task() -> None:
    assert line("va:") == (
        "va: 120 labelled frames with a face, of 3 videos; 7 more without a face; 9 of tracks without any face left out"
    )
    assert line("au:") == "au: 80 labelled frames with a face, of 2 videos"


def test_videos_that_the_encoder_has_seen_are_counted() -> None:
    said = line("au:", seen_by_encoder_videos={"va": 0, "au": 1})
    assert said.endswith("the encoder was trained on 1 of these videos")


def test_classes_without_a_label_are_named() -> None:
    assert line("au:", absent={"au": ["au23", "au24"]}).endswith("no label has au23, au24, whose F1 is 0")


def test_nothing_is_printed_without_metrics() -> None:
    assert as_text({}) == ""
