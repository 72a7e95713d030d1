"""The table that `status` prints, for every kind of cluster."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One component: its process or container ("" where none is known), and whether it is well."""

    name: str
    process: str
    healthy: bool
    note: str = ""


def print_table(rows: Sequence[Row]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("Component", "Process", "Health", ""):
        table.add_column(heading)
    for row in rows:
        health = "[green]healthy[/]" if row.healthy else "[red]not healthy[/]"
        table.add_row(row.name, row.process or "-", health, row.note)
    Console().print(table)
