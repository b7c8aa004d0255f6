"""The whole of mien on two cores: synthetic clips, faces, a model, scores, and how good they are.

`make demo` runs it. Everything goes through the `mien` command as a user would call it; all of it is left in the folder
that is given: `clips/`, `lake/`, `bundle/`, `timeline.png`, `result.json`.
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
import simplejpeg

from common.labels import ACTION_UNITS, VALENCE_AROUSAL
from common.tasks import TASKS
from train import metrics

MIEN = Path(sys.executable).parent / "mien"
STRIP = 16  # faces in the picture's strip
FEWER_STEPS = ("finetune.steps=300", "finetune.warmup=15", "heads.temporal.steps=60")

# A lake may hold the scores of several models: each is a partition of its own.
QUERIES = {
    "Which videos are the most pleasant?": """
        select regexp_extract(uri, '([^/]+)\\.mp4$', 1) as video, round(avg(valence), 3) as valence,
               round(avg(arousal), 3) as arousal, count(*) as frames
        from scores where model = '{model}' and face_status = 'ok' group by video order by valence desc limit 5""",
    "How often is each expression the most probable one?": """
        select expression, count(*) as frames, round(100 * count(*) / sum(count(*)) over (), 1) as percent
        from scores where model = '{model}' and expression is not null group by expression order by frames desc""",
    "Which action units go with happiness, and which with anger?": """
        select expression, round(avg(au06), 2) as au06_cheek_raiser, round(avg(au12), 2) as au12_lip_corner_puller,
               round(avg(au04), 2) as au04_brow_lowerer, round(avg(au23), 2) as au23_lip_tightener
        from scores where model = '{model}' and expression in ('happiness', 'anger')
        group by expression order by expression""",
}


def mien(*arguments: str | Path) -> str:
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
          on labels.base_video = regexp_extract(scores.uri, '([^/]+)\\.mp4$', 1)
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
        found |= metrics.METRICS[name](table[task.columns(task.outputs)].to_numpy(), true[name])
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


def cross_portrait(lake: Path, bundle: Path, out: Path) -> dict[str, float]:
    """The same metrics where fine-tuning saw only the astronaut and the held-out clips are all of Hopper.

    Starts from the pretrained encoder, which saw both without labels; fewer steps, as there is half the data.
    """
    encoder = bundle.with_name(f"{bundle.name}.train") / "mae.safetensors"
    found = mien(
        *("train", "demo", "--lake", lake, "--out", out, "--json", f"init={encoder}"),
        *("data.train=astronaut_*", "data.validation=hopper_*", *FEWER_STEPS),
    )
    measured = json.loads(found.splitlines()[-1])
    return {name: measured[name] for name in ("ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")}


def draw(table: pd.DataFrame, lake: Path, out: Path) -> None:
    """One clip: predicted and true valence and arousal over its time, above a strip of its aligned faces."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    video = table["video"].iloc[0]
    clip = table[table["video"] == video]
    figure, axes = plt.subplots(3, 1, figsize=(12, 7), height_ratios=(3, 3, 1.05), layout="constrained", sharex=True)
    for axis, name in zip(axes, ("valence", "arousal"), strict=False):
        axis.plot(clip["time_s"], clip[f"true_{name}"], color="0.55", linewidth=2, label="true")
        axis.plot(clip["time_s"], clip[name], color="C0", linewidth=1.5, label="predicted")
        agreement = metrics.ccc(clip[name], clip[f"true_{name}"])
        axis.set(ylim=(-1.05, 1.05), ylabel=name, title=f"{name}: CCC {agreement:.2f} over this clip")
        axis.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        axis.legend(loc="upper right", ncols=2, frameon=False)
    start, end = clip["time_s"].min(), clip["time_s"].max()
    width = (end - start) / STRIP
    for number in range(STRIP):
        middle = start + (number + 0.5) * width
        frame = clip.iloc[(clip["time_s"] - middle).abs().argmin()]
        crops = duckdb.sql(
            f"select crop from read_parquet('{lake}/faces/**/*.parquet') where video_id = '{frame['video_id']}' "
            f"and frame_index = {frame['frame_index']} and track_id = {frame['track_id']}"
        ).fetchall()
        for (crop,) in crops:
            picture = simplejpeg.decode_jpeg(crop, "RGB")
            axes[2].imshow(picture, extent=(middle - width / 2, middle + width / 2, 0, 1), aspect="auto")
        axes[2].text(middle, -0.04, frame["expression"], ha="center", va="top", fontsize=7)
    axes[2].set(xlim=(start, end), ylim=(0, 1), yticks=[], title="faces, with the most probable expression")
    axes[2].set_xlabel("time in the clip, s", labelpad=14)
    figure.suptitle(f"{video}, held out")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def show(result: dict[str, Any]) -> None:
    """The comparison as a table."""
    print(f"\n{'held-out clips':<18}{'score':>8}{'chance':>8}{'other portrait':>16}")
    for name, chance in result["chance"].items():
        print(f"{name:<18}{result[name]:>8.3f}{chance:>8.3f}{result['cross_portrait'][name]:>16.3f}")


def main(out: Path) -> None:
    started = time.monotonic()
    for made in ("clips", "lake", "bundle", "bundle.train", "cross_portrait", "cross_portrait.train"):
        shutil.rmtree(out / made, ignore_errors=True)
    out.mkdir(exist_ok=True)
    clips, lake, bundle = out / "clips", out / "lake", out / "bundle"

    mien("synth", clips)
    mien("ingest", clips / "videos", "--lake", lake, "--archive", "synth")
    mien("label", "synth", clips, "--lake", lake)
    mien("train", "demo", "--lake", lake, "--out", bundle)
    listed = out / "held_out.txt"
    listed.write_text("".join(f"{path.absolute()}\n" for path in held_out(clips)))
    mien("score", listed, "--lake", lake, "--model", bundle)

    model = scored_by(bundle, lake)
    table = joined(lake, model)
    result = compare(table)
    draw(table, lake, out / "timeline.png")
    result["cross_portrait"] = cross_portrait(lake, bundle, out / "cross_portrait")
    result["wall_s"] = round(time.monotonic() - started, 1)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    for question, query in QUERIES.items():
        print(f"\n{question}\n{mien('sql', lake, ' '.join(query.format(model=model).split()))}")
    print(f"{out}: clips/ lake/ bundle/ timeline.png result.json, in {result['wall_s']:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
