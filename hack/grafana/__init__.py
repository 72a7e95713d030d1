"""The Grafana dashboards of the chart, as JSON: `make generate` writes them."""

from collections.abc import Iterator

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import fleet, job, operator, search

BOARDS = (fleet, job, operator, search)


def files() -> Iterator[tuple[str, str]]:
    """Name and content of each dashboard's file."""
    for board in BOARDS:
        built = board.dashboard()
        assert built.uid
        yield f"{built.uid}.json", JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"
