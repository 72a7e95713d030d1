"""Ends every command with one sentence and an exit code instead of a traceback."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from finetune_cli.errors import CommandError, Exit


class FineTuneGroup(TyperGroup):
    """Commands whose expected errors are printed as one sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Errors of the Python API become exit codes."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.code) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader, such as head, has seen enough
            raise typer.Exit(0) from None
        except Exception as error:
            code = _code(error)
            if code is None:
                raise
            typer.echo(str(error), err=True)
            raise typer.Exit(code) from error


def _code(error: Exception) -> int | None:
    """The exit code of an error of the Python API, which is not imported unless something failed."""
    from finetune_sdk.errors import ClusterError, FineTuneError, NotFoundError, WaitTimeoutError

    if isinstance(error, NotFoundError):
        return Exit.NOT_FOUND
    if isinstance(error, WaitTimeoutError):
        return Exit.TIMED_OUT
    if isinstance(error, ClusterError):
        return Exit.CLUSTER
    return Exit.FAILED if isinstance(error, FineTuneError) else None
