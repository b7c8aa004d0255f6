"""The commands of this part. What a command does is in the module that it imports when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.cli import JobOptions, job_options
from ingest.options import face_options

if TYPE_CHECKING:
    from common.bundle.manifest import BundleManifest


@click.command()
@click.argument("sources", nargs=-1, metavar="SRC...")
@click.option(
    "--model", "bundle", metavar="BUNDLE", help="Folder or s3://... of the bundle to score with. [default: fer2013]"
)
@click.option(
    "--from-faces", is_flag=True, help="Score faces that are ingested: those of SRC, or all of the archive's."
)
@click.option("--ingest", metavar="I", help="Which faces, if the archive was ingested in several ways.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Faces a call of the encoder; changes no row."
)
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), help="Of the bundle's networks. [default: float32]"
)
@click.option(
    "--smooth",
    metavar="box:N",
    help="Give each face the mean of its track's predictions over N frames: rows of another model. [default: none]",
)
@face_options
@job_options
def score(
    sources: tuple[str, ...],
    bundle: str | None,
    from_faces: bool,
    ingest: str | None,
    batch_size: int | None,
    precision: str | None,
    smooth: str | None,
    faces: dict[str, Any],
    options: JobOptions,
) -> int:
    """Score the videos of SRC with BUNDLE: files, folders, globs, s3:// prefixes, or lists of them.

    Without --model, expressions by weights that are installed: see `mien import fer2013 --help`.

    An archive can grow: name more videos in a later command. What was done before is kept and not done again.
    """
    from common import config
    from common.lake.layout import Lake, check_archive_name
    from common.run import summary
    from ingest import archive
    from score import job
    from score.sources import ingested as ingested_

    if not (sources or from_faces):
        raise click.UsageError("name the videos to score, or --from-faces for all that is ingested")
    if ingest and not from_faces:
        raise click.UsageError("--ingest chooses among ingested faces: give --from-faces with it, or leave it out")
    if from_faces and any(faces.values()):
        raise click.UsageError(
            "--from-faces takes faces as they were found: leave out the options of decoder, detector"
        )
    chosen = {"faces": faces, "batch_size": batch_size, "dtype": precision, "smooth": smooth}
    given = {key: value for key, value in chosen.items() if value is not None}
    where = bundle if bundle is None or bundle.startswith("s3://") else str(Path(bundle).absolute())
    with job.opened(where) as model:
        settings = config.load(job.ScoreConfig, options.config, options.overrides, given).fitted(model.manifest)
        _say_what_to_expect(where, model.manifest)
        lake = Lake(options.lake)
        name = check_archive_name(options.archive)
        ingested = ingested_.find(lake, name, ingest, model.manifest.crop) if from_faces else None
        listing = archive.listing(sources) if sources or ingested is None else ingested.listing()
        destination = job.destination(lake, name, model, settings, ingested)
        processor = job.ScoreProcessor(where, model.manifest, settings, ingested)
    return summary.tell(job.run(destination, listing, processor, options), options)


def _say_what_to_expect(bundle: str | None, manifest: BundleManifest) -> None:
    from common import log

    if bundle is None:
        from train.models.published import fer2013

        log.get("score").warning(f"no --model was given: {fer2013.IN_A_LINE}")
    elif manifest.intended_use == "demo":
        log.get("score").warning(
            "this bundle is a demo: it knows two synthetic faces, its scores of others mean nothing"
        )


@click.command()
@click.argument("lake")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def status(lake: str, json: bool) -> None:
    """Say what LAKE holds, how far its jobs are and what failed."""
    from common.cli import emit_json
    from common.lake.layout import Lake
    from score.analysis import status as status_

    found = status_.status(Lake(lake))
    if json:
        emit_json(found.as_json())
    else:
        for line in status_.as_text(found):
            click.echo(line)


@click.command()
@click.argument("lake")
@click.argument("query")
@click.option("--json", "form", flag_value="json", help="Print a JSON object for each row.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV with a header.")
def sql(lake: str, query: str, form: str | None) -> None:
    """Answer the QUERY, one statement of DuckDB's SQL that only reads, over the tables of LAKE.

    The tables are scores, faces, videos and labels; "describe scores" lists the columns of one.

    Made from them are models (the options and times of each), frames (how many faces), tracks (means over time), and
    matched('MODEL', 'OTHER', min_iou := 0.5): the rows a and b of two models of one face, paired by their boxes, each
    the other's best of its frame. So: "select avg(abs(a.valence - b.valence)) from matched('m1', 'm2')".
    """
    from common.lake.layout import Lake
    from score.analysis import answers
    from score.analysis import sql as tables

    write = {"json": answers.as_json, "csv": answers.as_csv, None: answers.as_text}[form]
    with tables.connect(Lake(lake)) as connection:
        for line in write(*connection.query(query)):
            click.echo(line)


@click.command()
@click.argument("lake")
@click.option("--video", required=True, metavar="NAME", help="The video's name, or its whole path or URI.")
@click.option(
    "--out", required=True, metavar="PNG", type=click.Path(dir_okay=False, path_type=Path), help="The picture."
)
@click.option("--model", metavar="M", help="The model that scored it, or how its name begins, if there are several.")
@click.option("--archive", metavar="A", help="The archive that the video is in, if there are several.")
def plot(lake: str, video: str, out: Path, model: str | None, archive: str | None) -> None:
    """Draw the scores of one video of LAKE over its time, with a panel for each track, as a PNG.

    Labels are drawn where LAKE has them, and faces where it has them from `mien ingest`.
    """
    from common.lake.layout import Lake
    from score.analysis import plot as plot_
    from score.analysis import sql, timeline

    if out.suffix.lower() != ".png":
        raise click.UsageError(f"the picture is a PNG: give --out a name that ends in .png, not {out}")
    with sql.connect(Lake(lake)) as tables:
        found = timeline.read(tables, video, model, archive)
    plot_.draw(found, out)
    tracks = f"{len(found.tracks)} track{'s' * (len(found.tracks) > 1)}"
    left_out = f", {found.left_out} shorter ones are left out" if found.left_out else ""
    click.echo(f"{out}: {found.video.name}, scored by {found.video.model}, {tracks}{left_out}")


@click.command()
@click.option("--lake", help="Also race writers in the store of this folder or s3://bucket/prefix.")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def doctor(lake: str | None, json: bool) -> int:
    """Say what is installed, what the machine has, and what is wrong with them."""
    from common.cli import emit_json
    from score.doctor import examine

    checks = []
    for check in examine(lake):
        checks.append(check)
        if not json:
            click.echo(f"{check.state:<5} {check.name:<24} {check.detail}")
    broken = [check.name for check in checks if check.state == "fail"]
    if json:
        emit_json({"broken": broken, "checks": [vars(check) for check in checks]})
    elif broken:
        click.echo(f"broken: {', '.join(broken)}", err=True)
    return 1 if broken else 0
