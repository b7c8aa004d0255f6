"""The commands of this part. What a command does is in the module that it imports when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from train.models.published.published import Published
    from train.places import Places
    from train.table import Table

from common import environment
from train import arguments

_force = click.option("--force", is_flag=True, help="Replace the bundle that is in OUT.")


@click.command()
@click.argument("recipe")
@arguments.keys("RECIPE")
@click.option("--lake", required=True, help="Folder or s3://bucket/prefix of the lake.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the bundle to write.")
@click.option("--work", help="Folder or s3://bucket/prefix for checkpoints and finished stages. [default: OUT.train]")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Processes that share each batch. [default: 1]"
)
@click.option(
    "--on",
    type=click.Choice(["local", "ray"]),
    help="Train in processes of this machine or on Ray. [default: ray if RAY_ADDRESS is set, else local]",
)
@click.option(
    "--seeds", metavar="N,N...", callback=arguments.numbers, help="Of a study: each of its runs once for each seed."
)
@_force
@click.option("--json", is_flag=True, help="Print a summary as one JSON object, last on stdout.")
def train(
    recipe: str,
    overrides: tuple[str, ...],
    lake: str,
    out: Path,
    work: str | None,
    workers: int | None,
    on: str | None,
    seeds: tuple[int, ...],
    force: bool,
    json: bool,
) -> int | None:
    """Train RECIPE, a name or a YAML file, on the faces and labels of a lake; writes a bundle.

    A study (abaw6, abaw8, or a YAML file) trains a bundle for each row of a published table that is not in OUT yet,
    and prints the table. KEY=VALUE then holds for all of its runs.

    Checkpoints and finished stages are kept in WORK: the same command run again goes on where it was cut off, also with
    another number of workers, and on another machine if WORK is on S3. Recipes that share WORK train a stage once if
    they have it in common. Logs and pictures are there, too; if it is on S3, in OUT.train. init=FILE of another run can
    start from the pretrained encoder, mae-<digest>.safetensors, which the bundle names under data.stages, or from
    published weights (docs/import.md).
    """
    _quiet_threads()
    # Processes that a launcher has started, those of Ray among them, are not started once more.
    on_ray = on == "ray" or (on is None and environment.RAY_ADDRESS.get() and not environment.WORLD_SIZE.get())
    from train.places import Places

    places = Places.named(out, work)
    if on_ray or (workers or 1) > 1:
        from common.store.uris import canonical_uri

        given = {"--lake": canonical_uri(lake), "--out": places.out, "--work": work and places.store.url}
        given |= {"--seeds": ",".join(map(str, seeds)), "--force": force, "--json": json}
        words = ["train", recipe, *overrides, *arguments.words(given)]
        return _launch(words, workers or 1, places if on_ray else None)
    from common.bundle.card import CARD
    from common.cli import emit_json
    from common.lake.layout import Lake
    from train import job, study
    from train import recipe as recipe_
    from train.report_text import as_text

    if study.is_study(recipe):
        _show_table(job.run_study(study.load(recipe, overrides, seeds), Lake(lake), out, work, force=force), json)
        return None
    if seeds:
        raise click.UsageError("--seeds is for studies: a recipe takes seed=N")
    made = job.run(recipe_.load(recipe, overrides), Lake(lake), out, work, force=force)
    manifest = made.manifest
    if not _tells():
        return None
    if json:
        emit_json({"bundle": str(made.path), "id": manifest.id, **manifest.metrics})
    else:
        click.echo(f"{manifest.name} {manifest.id} in {made.path}")
        click.echo(as_text(manifest.metrics) or "no metrics: the lake has no validation videos")
        click.echo(f"see {made.path / CARD}; curves, pictures, logs for TensorBoard: {places.work}")
    return None


def _launch(words: list[str], workers: int, places: Places | None) -> int:
    """Runs `mien <words>` in several processes of this machine, or if it is told the places that it writes, on Ray."""
    if places is None:
        from train import launch

        return launch.run(workers, words)
    from train import on_ray

    return on_ray.run(workers, words, places)


@click.command()
@click.argument("bundle")
@arguments.keys("BUNDLE")
@click.option("--lake", help="Folder or s3://bucket/prefix of the lake; a study's folder can do without.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw the confusion of a model of clips: a PNG."
)
@click.option("--json", is_flag=True, help="Print a summary as one JSON object, last on stdout.")
def evaluate(bundle: str, overrides: tuple[str, ...], lake: str | None, picture: Path | None, json: bool) -> None:
    """Compare a BUNDLE's scores with the labels of a lake's validation videos.

    BUNDLE may be the folder that a study was trained to: its table is printed as it was measured after training, or
    measured again on the lake that is named.

    KEY=VALUE: dataset, archive, faces, ingest, fold or validation, as in a recipe's data. [default: the bundle's]
    """
    _quiet_threads()
    from common.bundle.folder import Bundle
    from common.cli import emit_json
    from common.lake.layout import Lake
    from train import job, study
    from train.report_text import as_text

    if study.is_folder(bundle):
        if overrides or picture:
            raise click.UsageError(
                "the bundles of a study are compared with the labels of their recipes, in a table: leave out KEY=VALUE "
                "and --picture"
            )
        made = study.stored(Path(bundle))
        return _show_table(job.tabulate(made, Path(bundle), Lake(lake) if lake else None), json)
    if lake is None:
        raise click.UsageError("Missing option '--lake'.")
    metrics = job.evaluate_bundle(Bundle.open(bundle), Lake(lake), overrides)
    if picture is not None:
        job.draw_confusion(metrics, picture)
    if json:
        emit_json(metrics)
    else:
        click.echo(as_text(metrics))
    return None


def _show_table(table: Table, json: bool) -> None:
    from common.cli import emit_json

    if not _tells():
        return
    if json:
        emit_json({"title": table.title, "headings": table.headings, "rows": table.rows, "notes": table.notes})
    else:
        click.echo(table.as_text())


@click.command()
@click.argument("bundle")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@_force
@click.option("--json", is_flag=True, help="Print a summary as one JSON object, last on stdout.")
def export(bundle: str, out: Path, force: bool, json: bool) -> None:
    """Write the encoder and the heads of a BUNDLE as ONNX files, for programs without mien.

    OUT is a bundle, too: ONNX Runtime then runs its encoder. onnx.json in it says what the files take and give.
    """
    _quiet_threads()
    from common.bundle.folder import Bundle, check_destination, refuse_to_replace
    from common.cli import emit_json
    from train import export as export_

    check_destination(out)
    if not force:
        refuse_to_replace(out)
    made, graphs = export_.export(Bundle.open(bundle), out)
    differences = {f"{name}.onnx": graph.difference for name, graph in graphs.items()}
    if json:
        emit_json({"bundle": str(made.path), "id": made.manifest.id, "largest_difference": differences})
        return
    for name, difference in differences.items():
        click.echo(f"{name:<13} differs from the bundle by {difference:.1e} at most")
    click.echo(f"{made.manifest.name} {made.manifest.id} in {made.path}")


@click.group("import")
def import_() -> None:
    """Make a bundle of weights that others published."""


_out = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the bundle to write.")
_sha256 = click.option("--sha256", metavar="HEX", help="Refuse a file of any other SHA-256.")
_json = click.option("--json", is_flag=True, help="Print a summary as one JSON object, last on stdout.")
_file = click.Path(dir_okay=False, path_type=Path)


@import_.command()
@click.argument("file", required=False, type=_file)
@_out
@_force
@_json
def fer2013(file: Path | None, out: Path, force: bool, json: bool) -> None:
    """Seven expressions of grey faces: what `mien score` takes without --model.

    FILE: a copy of fer/data/emotion_model.hdf5 of fer 25.10.3. [default: the installed one]
    """
    from train.models.published import fer2013 as source

    _write(source.published(file), out, force, json)


@import_.command()
@click.argument("file", type=_file)
@click.option("--download", is_flag=True, help="Fetch FILE from the project's repository.")
@_sha256
@_out
@_force
@_json
def emotiefflib(file: Path, download: bool, sha256: str | None, out: Path, force: bool, json: bool) -> None:
    """Eight expressions, some with valence and arousal, of EmotiEffLib's FILE, such as enet_b0_8_va_mtl.onnx."""
    from train.models.published import emotiefflib as source

    _write(source.downloaded(file.name, sha256) if download else source.published(file, sha256), out, force, json)


@import_.command()
@click.argument("file", type=_file)
@click.option("--description", required=True, type=_file, help="YAML that says what FILE takes and gives.")
@_sha256
@_out
@_force
@_json
def onnx(file: Path, description: Path, sha256: str | None, out: Path, force: bool, json: bool) -> None:
    """Any network of single faces in an ONNX FILE. docs/import.md says what its description holds."""
    from common import config
    from train.models.published import described as source

    stated = config.load(source.Description, description, ())
    _write(source.published(file, stated, sha256), out, force, json)


@import_.command("dfer-clip")
@click.argument("file", type=_file)
@click.option(
    "--dataset",
    type=click.Choice(["dfew", "ferv39k", "mafw"]),
    help="What FILE was trained on. [default: dfew for 7 classes, mafw for 11]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="How long the clips were that it was trained on. [default: as those of the dataset]",
)
@_sha256
@_out
@_force
@_json
def dfer_clip(
    file: Path, dataset: str | None, seconds: float | None, sha256: str | None, out: Path, force: bool, json: bool
) -> None:
    """7 or 11 expressions of clips: a checkpoint FILE of github.com/zengqunzhao/DFER-CLIP."""
    from train.models.published import dfer_clip as source

    _write(source.published(file, dataset, seconds, sha256), out, force, json)


def _write(published: Published, out: Path, force: bool, json: bool) -> None:
    from common.bundle.folder import refuse_to_replace
    from common.cli import emit_json

    if not force:
        refuse_to_replace(out)
    made = published.write(out)
    columns = published.columns
    if json:
        origin = made.manifest.origin.model_dump() if made.manifest.origin else {}
        emit_json({"bundle": str(made.path), "id": made.manifest.id, "columns": columns, **origin})
    else:
        click.echo(f"{made.manifest.name} {made.manifest.id} in {made.path}: {', '.join(columns)}")


def _tells() -> bool:
    """Whether this is the process that tells what a training has made."""
    return environment.RANK.get() in (None, "0")


def _quiet_threads() -> None:
    """Before torch is imported: threads that wait for one another sleep, as spinning slows down others on the cores."""
    environment.OMP_WAIT_POLICY.set_default("PASSIVE")
