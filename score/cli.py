"""The commands of this part. What a command does is in the module that it imports when it is called."""

from __future__ import annotations

import click


@click.command()
@click.argument("lake")
@click.option("--json", is_flag=True, help="Print one JSON object.")
def status(lake: str, json: bool) -> None:
    """Say what LAKE holds, how far its jobs are and what failed."""
    from common.cli import emit_json
    from common.lake import Lake
    from score import status as status_

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
    """Answer the QUERY, one SELECT of DuckDB's SQL, over the tables of LAKE.

    The tables are scores, faces, videos and labels; "describe scores" lists the columns of one.
    """
    from common.lake import Lake
    from score import answers, tables

    write = {"json": answers.as_json, "csv": answers.as_csv, None: answers.as_text}[form]
    with tables.connect(Lake(lake)) as connection:
        for line in write(*connection.query(query)):
            click.echo(line)


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
