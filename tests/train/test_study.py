"""Studies: which runs a table has, that those which are missing are trained, and that each stage is trained once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.bundle.folder import Bundle
from common.cli import main
from common.errors import UsageError
from common.lake.layout import Lake
from train import job, loop, recipe, study
from train.places import Places

SHORT = ("mae.steps=1", "finetune.steps=1", "heads.temporal.steps=1")


def file_of(path: Path, **changes: Any) -> str:
    fields = {
        "name": "toy-study",
        "title": "Toys",
        "source": "nothing",
        "recipe": "demo",
        "variants": {
            "full": {"title": "whole"},
            "no-tcn": {"title": "without TCN", "set": ["heads.temporal.model.channels=[]"]},
        },
    }
    path.write_text(yaml.safe_dump(fields | changes))
    return str(path)


@pytest.mark.parametrize("name", study.names())
def test_each_run_of_a_study_that_comes_with_mien_is_a_recipe_of_its_own(name: str) -> None:
    runs = list(study.load(name, seeds=(0,)).runs())
    recipes = [run.recipe() for run in runs]
    assert len({run.name for run in runs}) == len(runs)
    assert len({made.model_dump_json(exclude={"name"}) for made in recipes}) == len(runs)
    assert [made.data.fold for made in recipes] == [run.fold for run in runs]


@pytest.mark.parametrize("system", ["abaw6", "abaw8"])
def test_the_tables_of_both_papers_have_five_folds_of_the_whole_model(system: str) -> None:
    for name in (system, f"{system}-small"):
        assert [run.fold for run in study.load(name).runs() if run.variant == "full"] == [0, 1, 2, 3, 4]


def test_the_ablations_leave_out_what_their_names_say() -> None:
    made = {run.variant: run.recipe() for run in study.load("abaw8").runs()}
    assert made["no-fine-tuning"].finetune is None
    for without, key, nothing in (("no-tcn", "channels", ()), ("no-transformer", "layers", 0)):
        for task in ("va", "expr", "au"):
            assert getattr(made[without].stages[task].model, key) == nothing
            assert getattr(made["full"].stages[task].model, key) != nothing


def test_no_study_has_the_name_of_a_recipe() -> None:
    for name in study.names():
        with pytest.raises(UsageError, match=f"no recipe '{name}'"):
            recipe.load(name)


def test_the_rows_of_dfer_clips_tables_differ_from_it_as_their_names_say() -> None:
    for name in ("dfer-baselines", "dfer-small"):
        runs = study.load(name, seeds=(1,)).runs()
        made = {run.variant: run.recipe().clips for run in runs if not run.fold}
        head = {variant: stage.model for variant, stage in made.items()}
        assert made["zero-shot"].frozen == made["linear-probe"].frozen == made["coop"].frozen == {"image"}
        assert not made["fine-tuning"].frozen | made["full"].frozen | made["no-temporal"].frozen
        assert head["zero-shot"].depth == head["zero-shot"].prompts.context == head["coop"].depth == 0
        assert head["no-temporal"] == head["full"].model_copy(update={"depth": 0})
        assert head["fine-tuning-temporal"] == head["full"].model_copy(update={"classifier": "linear"})
        assert (head["coop"].prompts.conditional, head["co-coop"].prompts.conditional) == (False, True)
    depths = [run.recipe().clips.model.depth for run in study.load("dfer-depths", seeds=(1,)).runs() if not run.fold]
    contexts = [
        run.recipe().clips.model.prompts.context
        for run in study.load("dfer-contexts", seeds=(1,)).runs()
        if not run.fold
    ]
    assert (depths, contexts) == ([0, 1, 2, 3], [4, 8, 16])


def test_dfer_clips_main_table_has_the_folds_and_classes_of_each_dataset() -> None:
    runs = list(study.load("dfer", seeds=(1,)).runs())
    assert [(run.variant, run.fold) for run in runs] == [
        *(("dfew", fold) for fold in range(5)),
        ("ferv39k", 0),
        *(("mafw", fold) for fold in range(5)),
    ]
    assert [len(runs[n].recipe().clips.classes) for n in (0, 5, 6)] == [7, 7, 11]


def test_keys_of_the_command_line_hold_for_all_runs(tmp_path: Path) -> None:
    loaded = study.load(file_of(tmp_path / "toy.yaml"), ("mae.steps=7",), (3, 4))
    assert {(run.recipe().mae.steps, run.recipe().seed) for run in loaded.runs()} == {(7, 3), (7, 4)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "demos"}, "no recipe 'demos'"),
        ({"variants": {}}, "variants"),
        ({"variants": {"a": {"title": "a", "set": ["mae.stepps=1"]}}}, "did you mean 'mae.steps'"),
        ({"variants": {"a": {"title": "a", "folds": [7]}}}, "data.fold"),
        ({"titel": "x"}, "did you mean 'title'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_before_anything_is_trained(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        study.load(file_of(tmp_path / "toy.yaml", **changes))


def test_a_file_of_a_recipe_is_no_study(tmp_path: Path, toy_recipe: str) -> None:
    assert study.is_study(file_of(tmp_path / "toy.yaml"))
    assert not study.is_study(toy_recipe)
    assert not study.is_study(str(tmp_path / "absent.yaml"))


@pytest.mark.slow
def test_missing_runs_alone_are_trained_and_their_common_stages_once(
    toy_lake: Path,
    toy_recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "runs"
    trained: list[str] = []
    fit = loop.fit

    def counted(name: str, *arguments: Any, **options: Any) -> Any:
        trained.append(name)
        return fit(name, *arguments, **options)

    monkeypatch.setattr(loop, "fit", counted)
    wanted = study.load(file_of(tmp_path / "toy.yaml", recipe=toy_recipe), SHORT)
    whole = job.run_study(wanted, Lake(str(toy_lake)), out)
    assert trained == ["mae", "finetune", "va", "expr", "au", "va", "expr", "au"]
    assert job.run_study(wanted, Lake(str(toy_lake)), out) == whole
    assert len(trained) == 8
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"full-fold0", "no-tcn-fold0"}
    full = Bundle.open(str(out / "full-fold0")).manifest
    assert whole.rows[0][2] == f"{full.metrics['ccc_valence']:.3f}"
    for name in ("table.txt", "table.md", "table.png"):
        assert (out / name).stat().st_size > 100

    (out / study.FILE).unlink()
    assert job.run_study(wanted, Lake(str(toy_lake)), out) == whole
    assert study.stored(out) == wanted

    with pytest.raises(UsageError, match="was trained with other settings"):
        job.run_study(study.load(file_of(tmp_path / "toy.yaml", recipe=toy_recipe)), Lake(str(toy_lake)), out)

    for lake in ((), ("--lake", str(toy_lake))):  # as measured after training, and measured now
        assert main(["evaluate", str(out), *lake, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert [tuple(row) for row in said["rows"]] == list(whole.rows)


def test_a_bundle_is_not_evaluated_without_a_lake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "--lake" in capsys.readouterr().err


def test_seeds_are_for_studies(toy_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["train", toy_recipe, "--seeds", "0,1", "--lake", str(tmp_path), "--out", str(tmp_path / "b")]
    assert main(wrong) == 2
    assert "a recipe takes seed=N" in capsys.readouterr().err
    assert not Places.named(tmp_path / "b", None).work.exists()
    assert recipe.load(toy_recipe, ("seed=1",)).seed == 1


def test_a_study_on_a_lake_without_labels_leaves_nothing_that_is_in_the_way(toy_recipe: str, tmp_path: Path) -> None:
    wanted = study.load(file_of(tmp_path / "toy.yaml", recipe=toy_recipe))
    with pytest.raises(UsageError):
        job.run_study(wanted, Lake(str(tmp_path / "lake")), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))
