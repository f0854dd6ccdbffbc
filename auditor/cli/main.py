"""The `auditor` command. Each command parses, calls a use-case, prints, and returns an exit code."""

from __future__ import annotations

import os
import signal
import sys

import typer

from auditor import __version__
from auditor.cli import audit, demo, gate, jobs, plan, repair, report, server, system, waive
from auditor.errors import AuditorError, ExitCode, InvalidInput

EPILOG = (
    "Exit codes: 0 gate passed · 1 gate failed · 2 usage, configuration or internal error · 3 inconclusive · "
    "4 not authorised · 5 wait timed out, the job goes on · 130 interrupted."
)

app = typer.Typer(
    name="auditor",
    help="How much of the private training data can an attacker rebuild from this image classifier?",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """How much of the private training data can an attacker rebuild from this image classifier?"""


for module in (audit, plan, jobs, repair, report, gate, waive, server, system, demo):
    module.register(app)


def main() -> None:
    """Run the command line; errors become one clear message on stderr and the designed exit code.

    A terminated process ends like an interrupted one, so that a cancelled CI job leaves a truthful, resumable state. An
    unforeseen error is exit code 2: code 1 says that a gate failed, and nothing else.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except InvalidInput as error:
        _complain(
            f"{len(error.problems)} problem{'s' if len(error.problems) != 1 else ''}:",
            *error.problems,
            remedy=error.remedy,
        )
        sys.exit(error.exit_code)
    except AuditorError as error:
        _complain(error.message, remedy=error.remedy)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain(
            "interrupted",
            remedy="Finished units are kept; `auditor list` shows the job, `auditor submit --resume ID` goes on.",
        )
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.exit(ExitCode.ERROR)
    except Exception as error:
        if os.environ.get("AUDITOR_DEBUG"):
            raise
        _complain(f"{type(error).__name__}: {error}", remedy=AuditorError.default_remedy + " AUDITOR_DEBUG=1 shows it.")
        sys.exit(ExitCode.ERROR)


def _complain(first: str, *lines: str, remedy: str) -> None:
    typer.echo(f"error: {first}", err=True)
    for line in lines:
        typer.echo(f"  - {line}", err=True)
    if remedy:
        typer.echo(f"{remedy}", err=True)
