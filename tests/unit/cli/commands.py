"""Runs a command of the CLI and keeps what it printed."""

from typing import NamedTuple

from typer.testing import CliRunner

from finetune_cli.main import app


class Done(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def finetune(*arguments: object, stdin: str | None = None) -> Done:
    """Run `finetune` with these arguments in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return Done(result.exit_code, result.stdout, result.stderr)
