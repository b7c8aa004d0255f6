"""The commands of this part. What a command does is in the module that it imports when it is called."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from common.cli import JobOptions, job_options
from ingest.datasets.registry import DATASETS
from ingest.options import face_options


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--videos", default=30, show_default=True, help="How many clips to make.")
@click.option("--seconds", type=float, help="How long each of them is.  [default: 10.7, some 20]")
@click.option("--seed", default=0, show_default=True, help="The same seed makes the same clips.")
@click.option("--workers", type=click.IntRange(1), help="Processes; one per core unless given.")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def synth(out: Path, videos: int, seconds: float | None, seed: int, workers: int | None, json: bool) -> None:
    """Make labelled clips in the new folder OUT, in the layout of Aff-Wild2."""
    from ingest.synth import clips as synth_

    clips = synth_.write(out, videos, seconds, seed, workers)
    held_out = sum(clip.held_out for clip in clips)
    lengths = sorted({clip.frames for clip in clips})
    if json:
        facts = {"videos": len(clips), "held_out": held_out, "frames": sum(clip.frames for clip in clips)}
        click.echo(json_.dumps(facts))
    else:
        click.echo(
            f"{len(clips)} clips of {' or '.join(map(str, lengths))} frames in {out}, {held_out} of them held out"
        )


@click.command()
@click.argument("dataset", type=click.Choice(list(DATASETS)))
@click.argument("root", type=click.Path(path_type=Path), required=False)
@click.option("--lake", help="Folder or s3://bucket/prefix of the lake.")
@click.option("--check", type=click.Path(path_type=Path), help="Draw some pictures of each class into this PNG.")
@click.option("--describe", is_flag=True, help="Say which files are expected, and where the data is asked for.")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def label(dataset: str, root: Path | None, lake: str | None, check: Path | None, describe: bool, json: bool) -> None:
    """Put the annotations of DATASET below the folder ROOT into the lake.

    With --check or --describe nothing is put anywhere. The dataset synth is that of clips made by `mien synth`.
    """
    if [lake is not None, check is not None, describe].count(True) != 1:
        raise click.UsageError("Give one of --lake, --check and --describe")
    if describe:
        facts = _facts(dataset)
        text = [f"{facts['title']}: {facts['source']}", "below ROOT:"]
        text += [f"  {path}\n      {what}" for path, what in facts["files"].items()]
    elif root is None:
        raise click.UsageError("Missing argument 'ROOT', the dataset's folder")
    elif check is not None:
        from ingest import contact_sheet

        sheet = contact_sheet.sheet(dataset, root)
        sheet.save(check)
        facts = {"dataset": dataset, "sheet": str(check), "classes": sheet.counts}
        text = [f"{dataset}: {len(sheet.counts)} classes in {check}: look whether the faces show what the names say"]
    else:
        facts = _put_labels(dataset, root, str(lake))
        text = [
            f"{dataset}: {facts['rows']} rows of {facts['videos']} videos from {facts['annotations']} annotations, "
            f"{facts['outcome']}"
        ]
        text += [
            f"  {count} dropped: {reason} (first: {facts['first'][reason]})"
            for reason, count in facts["dropped"].items()
        ]
    click.echo(json_.dumps(facts) if json else "\n".join(text))


def _facts(dataset: str) -> dict[str, Any]:
    from ingest.datasets import registry

    found = registry.dataset(dataset)
    return {"dataset": dataset, "title": found.title, "source": found.source, "files": dict(found.files)}


def _put_labels(dataset: str, root: Path, lake: str) -> dict[str, Any]:
    from common.lake.layout import Lake
    from ingest import labelling

    return asdict(labelling.label(dataset, root, Lake(lake)))


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.option("--shipped", type=click.Choice(list(DATASETS)), help="Take the face crops that the dataset in SRC has.")
@face_options
@job_options
def ingest(sources: tuple[str, ...], shipped: str | None, faces: dict[str, Any], options: JobOptions) -> int:
    """Find the faces in the videos of SRC: files, folders, globs, s3:// prefixes, or lists of them.

    With --shipped nothing is detected: SRC is the folder of a dataset, whose own crops are taken as they are.

    An archive can grow: name more videos in a later command. What was done before is kept and not done again.
    """
    from common import config
    from common.lake.layout import Lake, check_archive_name
    from common.run import summary

    if shipped is not None:
        if len(sources) != 1 or any(faces.values()):
            raise click.UsageError("--shipped takes one SRC, the dataset's folder, and no option of detection")
        from ingest import shipped as shipped_

        chosen = config.load(shipped_.ShippedConfig, options.config, options.overrides)
        done = shipped_.run(shipped, Path(sources[0]), Lake(options.lake), chosen, options)
        return summary.tell(done, options)
    from ingest import job

    settings = config.load(job.IngestConfig, options.config, options.overrides, {"faces": faces})
    name = check_archive_name(options.archive)
    return summary.tell(job.run(sources, Lake(options.lake), name, settings, options), options)
