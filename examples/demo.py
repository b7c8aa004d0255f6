"""All of mien on two cores: synthetic clips, faces, a model, scores, and how good they are.

`make demo` runs it. Every step is a `mien` command as a user would call it. The results stay in the given folder:
`clips/`, `lake/`, `bundle/`, `timeline.png`, `result.json`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from common.labels import ACTION_UNITS, VALENCE_AROUSAL
from common.tasks import TASKS
from train import metrics

VIDEOS, SECONDS = 48, 4
LARGE = ("--set", "faces.detector.min_face=64")  # no face here is small, and looking for small ones takes time
MIEN = Path(sys.executable).parent / "mien"

# A lake may hold the scores of several models: each is a partition of its own.
QUERIES = {
    "Which videos are the most pleasant?": """
        select video_name, round(avg(valence), 3) as valence, round(avg(arousal), 3) as arousal, count(*) as frames
        from scores where model = '{model}' and face_status = 'ok' group by video_name order by valence desc limit 5""",
    "How often is each expression the most probable one?": """
        select expression, count(*) as frames, round(100 * count(*) / sum(count(*)) over (), 1) as percent
        from scores where model = '{model}' and expression is not null group by expression order by frames desc""",
    "Which action units go with happiness, and which with anger?": """
        select expression, round(avg(au06), 2) as au06_cheek_raiser, round(avg(au12), 2) as au12_lip_corner_puller,
               round(avg(au04), 2) as au04_brow_lowerer, round(avg(au23), 2) as au23_lip_tightener
        from scores where model = '{model}' and expression in ('happiness', 'anger')
        group by expression order by expression""",
}


def say(what: str, seconds: int) -> None:
    """Announces a step."""
    print(f"\n{what} About {seconds} s on two cores.", flush=True)


def mien(*arguments: object) -> str:
    """Runs a command, shows it, and returns what it printed on stdout."""
    print("\n$ mien " + " ".join(map(str, arguments)), file=sys.stderr, flush=True)
    done = subprocess.run([MIEN, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"mien {arguments[0]} ended with exit status {done.returncode}")
    return done.stdout


def held_out(clips: Path) -> list[Path]:
    """The clips of the validation set, by the layout of Aff-Wild2."""
    annotated = clips.glob("*ABAW_Annotations/VA_Estimation_Challenge/Validation_Set/*.txt")
    return [clips / "videos" / f"{path.stem}.mp4" for path in sorted(annotated)]


def scored_by(bundle: Path, lake: Path) -> str:
    """The name under which a bundle's scores are in the lake: its own, its id, and a digest of how it was used."""
    made = json.loads((bundle / "bundle.json").read_text())
    (folder,) = (lake / "scores" / "schema=1").glob(f"model={made['name']}-{made['id']}-*")
    return folder.name.removeprefix("model=")


def joined(lake: Path, model: str) -> pd.DataFrame:
    """Scores beside their labels (`true_*`), a row per frame that has both, in order of video and frame."""
    truth = ", ".join(f"labels.{name} as true_{name}" for name in (*VALENCE_AROUSAL, "expression", *ACTION_UNITS))
    return duckdb.sql(
        f"""
        select labels.base_video as video, scores.* exclude (model, archive, schema), {truth}
        from read_parquet('{lake}/scores/**/*.parquet', hive_partitioning = true) as scores
        join read_parquet('{lake}/labels/**/*.parquet') as labels
          on labels.base_video || '.mp4' = scores.video_name
         and labels.frame_index = scores.frame_index
        where scores.model = '{model}' and scores.face_status <> 'no_face'
        qualify count(*) over (partition by scores.video_id, scores.frame_index) = 1
        order by video, scores.frame_index"""
    ).df()


def compare(table: pd.DataFrame) -> dict[str, Any]:
    """The metrics of the ABAW protocol over all annotated frames pooled, and what chance would reach."""
    labels = table.filter(like="true_").rename(columns=lambda name: name.removeprefix("true_"))
    true = {name: task.targets(labels) for name, task in TASKS.items()}
    found: dict[str, Any] = {}
    for name, task in TASKS.items():
        found |= metrics.measure(name, table[task.columns(task.outputs)].to_numpy(), true[name])
    chance = metrics.chance(true["expr"], true["au"])
    return {
        **found,
        "chance": {
            "ccc_valence": chance.ccc,
            "ccc_arousal": chance.ccc,
            "f1_expression": max(chance.expression_f1_majority, chance.expression_f1_random),
            "f1_action_units": max(chance.action_unit_f1_all_ones, chance.action_unit_f1_random),
        },
        "frames": len(table),
    }


def show(result: dict[str, Any]) -> None:
    """The agreement with the labels as a table, beside what guessing would reach."""
    print(f"\nAgreement with the labels on {result['frames']} frames of held-out clips; 1 is perfect:")
    print(f"{'':<18}{'mien':>8}{'chance':>8}")
    for name, chance in result["chance"].items():
        print(f"{name:<18}{result[name]:>8.3f}{chance:>8.3f}")


def main(out: Path) -> None:
    started = time.monotonic()
    for made in ("clips", "lake", "bundle", "bundle.train"):
        shutil.rmtree(out / made, ignore_errors=True)
    out.mkdir(exist_ok=True)
    clips, lake, bundle, listed = out / "clips", out / "lake", out / "bundle", out / "held_out.txt"

    say("1/6  Draws clips of two photographed faces that move by action units, with their labels.", 60)
    mien("synth", clips, "--videos", VIDEOS, "--seconds", SECONDS)
    say("2/6  Finds, tracks and aligns the face in every frame of the clips.", 75)
    mien("ingest", clips / "videos", "--lake", lake, "--archive", "synth", *LARGE)
    say("3/6  Puts the labels into the lake, beside the faces.", 3)
    mien("label", "synth", clips, "--lake", lake)
    say("4/6  Trains a model on four fifths of the clips: masked pictures, expressions, then sequences of faces.", 180)
    mien("train", "demo", "--lake", lake, "--out", bundle)
    say("5/6  Scores the held-out clips, those that the training did not see, from video to table.", 25)
    listed.write_text("".join(f"{path.absolute()}\n" for path in held_out(clips)))
    mien("score", listed, "--lake", lake, "--model", bundle, *LARGE)
    say("6/6  Compares the scores with the labels, draws one clip and asks the lake three questions.", 15)
    model = scored_by(bundle, lake)
    mien("plot", lake, "--video", held_out(clips)[0].name, "--model", model, "--out", out / "timeline.png")
    print(f"{out / 'timeline.png'} shows one held-out clip: the model learnt nothing from it.")
    result = compare(joined(lake, model))
    show(result)
    for question, query in QUERIES.items():
        print(f"\n{question}\n{mien('sql', lake, ' '.join(query.format(model=model).split()))}")

    result["wall_s"] = round(time.monotonic() - started, 1)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"Done in {result['wall_s']:.0f} s. {out} holds clips/ lake/ bundle/ timeline.png result.json.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
