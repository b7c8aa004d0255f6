"""`mien reconcile`: makes a lake's ledger agree with its tables, and removes what killed jobs left."""

from __future__ import annotations

import click


@click.command()
@click.argument("lake")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def reconcile(lake: str, json: bool) -> int:
    """Repair the ledger and the outcomes of LAKE from its parts, and remove what killed jobs left.

    It may run beside jobs, and changes no row. If a problem needs a person, it is printed and the exit status is 1.
    """
    from common.cli import emit_json
    from common.commit.committer import Committer
    from common.commit.staging import Destination
    from common.errors import NotFound
    from common.lake.format import check_existing
    from common.lake.layout import Lake

    found = Lake(lake)
    check_existing(found)
    summary = {"units": 0, "mended": 0, "cleaned": 0}
    problems: list[str] = []
    for partition in (partition for table in ("faces", "scores") for partition in found.partitions(table)):
        try:
            destination = Destination.of(found, partition)
        except NotFound:
            problems.append(f"{found.config_key(partition)} is gone: restore it from a copy, or run the job again")
            continue
        done = Committer(destination).reconcile()
        summary["units"] += done.units
        summary["mended"] += len(done.mended)
        summary["cleaned"] += len(done.cleaned)
        problems += done.problems
    found.store.sweep()
    for problem in problems:
        click.echo(problem, err=True)
    steps = {"mended": "{} mended", "cleaned": "what killed jobs left of {} removed"}
    told = ", ".join(step.format(summary[name]) for name, step in steps.items() if summary[name])
    state = told or ("nothing else to mend" if problems else "all in order")
    click.echo(f"{summary['units']} units: {state}", err=True)
    if json:
        emit_json({"lake": found.url, **summary, "problems": problems})
    return 1 if problems else 0
