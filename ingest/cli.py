"""The commands of this part. What a command does is in the module that it imports when it is called."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--videos", default=30, show_default=True, help="How many clips to make.")
@click.option("--seconds", default=32 / 3, show_default="10.67", help="How long each of them is.")
@click.option("--seed", default=0, show_default=True, help="The same seed makes the same clips.")
@click.option("--workers", type=click.IntRange(1), help="Processes; one per core unless given.")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def synth(out: Path, videos: int, seconds: float, seed: int, workers: int | None, json: bool) -> None:
    """Make labelled clips in the new folder OUT, laid out like Aff-Wild2."""
    from ingest.datasets import synth as synth_

    clips = synth_.write(out, videos, seconds, seed, workers)
    held_out = sum(clip.held_out for clip in clips)
    if json:
        facts = {"videos": len(clips), "held_out": held_out, "frames": sum(clip.frames for clip in clips)}
        click.echo(json_.dumps(facts))
    else:
        click.echo(f"{len(clips)} clips of {clips[0].frames} frames in {out}, {held_out} of them held out")


@click.command()
@click.argument("dataset")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--lake", required=True, help="Folder or s3://bucket/prefix of the lake.")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def label(dataset: str, root: Path, lake: str, json: bool) -> None:
    """Put the annotations of DATASET below the folder ROOT into the lake.

    DATASET is affwild2, or synth for clips made by `mien synth`.
    """
    from common.lake import Lake
    from ingest import labelling

    done = labelling.label(dataset, root, Lake(lake))
    if json:
        click.echo(json_.dumps(asdict(done)))
    else:
        click.echo(f"{done.dataset}: {done.rows} rows of {done.videos} videos, {done.outcome}")
