"""`manage.py drill`: load a stack of its own while everything in it is killed, then audit it.

Exit status: 0 nothing is wrong, 1 something is, 2 the drill could not be run.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from payflow.stack.errors import StackError
from payflow.stack.progress import say
from payflow.terminal import whole_number

try:
    from payflow.stack.drill.drill import DESCRIPTIONS, KINDS, Plan, run

    MISSING = ""
except ModuleNotFoundError as error:  # a production image has neither an embedded Redis nor psutil
    KINDS, DESCRIPTIONS, MISSING = (), {}, str(error.name)

COULD_NOT_RUN = 2
WRONG = 1
SECONDS_DEFAULT = 60.0
SECONDS_MAX = 86_400.0
SEED_MAX = 10**9


class Command(BaseCommand):
    """Touches no data but its own: it starts a stack on free ports and a temporary data folder."""

    help = "Run a failure drill. Exits 1 when anything is wrong, 2 when it could not run."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        width = max(map(len, KINDS), default=0)
        lines = [f"  {kind:<{width}}  {text}" for kind, text in DESCRIPTIONS.items()]
        parser.epilog = "\n".join(["faults:", *lines])
        parser.add_argument(
            "--faults", type=_kinds, default=KINDS, help=f"some of {','.join(KINDS)} (default: all)"
        )
        parser.add_argument("--seconds", type=_seconds, default=SECONDS_DEFAULT, help="how long (60)")
        parser.add_argument("--seed", type=whole_number(0, SEED_MAX), help="repeats another drill")
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
        parser.add_argument(
            "--keep", action="store_true", help="keep the data folder, with logs, in any case"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the drill and print its report."""
        if settings.IS_PRODUCTION:
            raise CommandError("A drill refuses to run in production.", returncode=COULD_NOT_RUN)
        if MISSING:
            raise CommandError(
                f"A drill needs requirements/dev.txt, of which {MISSING} is not installed: run `make setup`.",
                returncode=COULD_NOT_RUN,
            )
        seed = secrets.randbelow(SEED_MAX) if options["seed"] is None else options["seed"]
        say(f"Seed {seed}")
        data_dir = Path(tempfile.mkdtemp(prefix="payflow-drill-"))
        is_clean = False
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            report = run(
                Plan(options["faults"], options["seconds"], seed, data_dir), lambda text: say(f"  {text} ...")
            )
            is_clean = report.is_clean
        except StackError as error:
            raise CommandError(str(error), returncode=COULD_NOT_RUN) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=COULD_NOT_RUN) from None
        finally:
            if is_clean and not options["keep"]:
                shutil.rmtree(data_dir, ignore_errors=True)
            else:
                say(f"Data and logs are kept in {data_dir}")
        say()
        for line in report.lines():
            say(line)
        if options["json"]:
            options["json"].write_text(json.dumps(report.as_dict(), indent=2) + "\n")
        if not is_clean:
            sys.exit(WRONG)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _kinds(text: str) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not MISSING and set(wanted) - set(KINDS):
        raise argparse.ArgumentTypeError(f"some of {','.join(KINDS)}")
    return wanted


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"a number from 1 to {SECONDS_MAX:.0f}")
    return seconds
