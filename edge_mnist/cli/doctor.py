"""The command ``doctor``."""

import dataclasses

import typer

from edge_mnist.cli.app import (
    Json,
    app,
    print_json,
)
from edge_mnist.cli.streams import escape


@app.command()
def doctor(as_json: Json = False) -> None:
    """Examine this machine: what is installed, what runs, how to fix it; exit 1 if wrong."""
    from edge_mnist.doctor import examine

    diagnosis = examine()
    if as_json:
        print_json(dataclasses.asdict(diagnosis))
    else:
        for finding in diagnosis.findings:
            print(escape(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.name}: {finding.text}"))
            if finding.fix:
                print(f"       fix: {finding.fix}")
    raise typer.Exit(0 if diagnosis.ok else 1)
