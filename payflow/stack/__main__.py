"""The commands behind the Makefile: `python -m payflow.stack run|serve|demo|exec|stop`."""

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from payflow.stack.causes import os_error_sentence
from payflow.stack.demo import Demo, Person
from payflow.stack.embedded import AlreadyRunningError, embedded_servers, running_stack
from payflow.stack.errors import StackError
from payflow.stack.paths import data_dir, read_dotenv
from payflow.stack.progress import complain, step
from payflow.stack.stack import Stack, child_env
from payflow.stack.story import Story

LOOK_SECONDS = 1.0
STOP_SECONDS_MAX = 60.0
STAFF_EMAIL = "staff@payflow.local"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PORTS = {"PAYFLOW_WEB_PORT": 8000, "PAYFLOW_FLOWER_PORT": 5555, "PAYFLOW_REDIS_PORT": 6390}


class Interrupted(BaseException):
    """Ctrl-C, or SIGTERM from whoever runs this. No error, so that nothing on the way handles it."""


def main(arguments: list[str]) -> int:
    """Runs the command that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m payflow.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "start everything, play the demo, stay up until Ctrl-C"),
        ("serve", "start everything and stay up until Ctrl-C"),
        ("demo", "start everything, play the demo, stop; the exit status says whether all went as it must"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("-v", "--verbose", action="store_true", help="show the processes' logs")
    execute = commands.add_parser("exec", help="run a program with the addresses of MongoDB and Redis")
    execute.add_argument("program", nargs=argparse.REMAINDER)
    commands.add_parser("stop", help="stop the stack of this data folder, wherever it was started")
    options = parser.parse_args(arguments)
    read_dotenv()
    try:
        if options.command == "exec":
            return execute_with_servers(options.program)
        if options.command == "stop":
            return stop_running()
        return run(options.command, verbose=options.verbose)
    except StackError as error:
        complain(f"\n{error}")
        return 1
    except OSError as error:
        complain(f"\n{os_error_sentence(error, data_dir())}")
        return 1


def run(command: str, *, verbose: bool) -> int:
    """Starts the stack, plays what the command asks for and stops; 0 when all went as it must."""
    console = Console(highlight=False)
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)
    stack = Stack(data_dir(), *_ports(), dict(os.environ), verbose=verbose, step=step)
    try:
        stack.start()
        alice_and_bob = None if command == "serve" else Demo(stack, Story(console)).play()
        if command != "demo":
            _print_addresses(console, stack, alice_and_bob)
            _stay_up(console, stack)
    except Interrupted:
        console.print()
    finally:
        console.print()
        if stack.is_started:
            with step("Stop PayFlow; everything is stored"):
                stack.stop()
    return 0


def execute_with_servers(program: list[str]) -> int:
    """Runs a program on the servers of the running stack, or on servers started just for it."""
    program = program[1:] if program[:1] == ["--"] else program
    if not program:
        raise StackError("There is no program to run: `python -m payflow.stack exec -- PROGRAM ...`.")
    folder = data_dir()
    running = running_stack(folder)
    if running:
        return _call(program, running[1])
    _, _, redis_port = _ports()
    with embedded_servers(folder, redis_port) as servers:
        return _call(program, {"MONGODB_URI": servers.mongodb_uri, "REDIS_URL": servers.redis_url})


def stop_running() -> int:
    """Ends the stack of this data folder and waits until it is gone."""
    folder = data_dir()
    running = running_stack(folder)
    if not running:
        complain(f"No PayFlow runs on {folder}.")
        return 0
    with step(f"Stop PayFlow (process {running[0]})"):
        os.kill(running[0], signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while _is_up(folder):
            if time.monotonic() > deadline:
                raise StackError(f"Process {running[0]} has not stopped within {STOP_SECONDS_MAX:.0f} s.")
            time.sleep(LOOK_SECONDS / 5)
    return 0


def _is_up(folder: Path) -> bool:
    try:
        return running_stack(folder) is not None
    except AlreadyRunningError:
        return True


def _call(program: list[str], addresses: dict[str, str]) -> int:
    """Runs the program in this terminal; Ctrl-C is its to answer."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the program would inherit
    try:
        status = subprocess.call(program, env=child_env({**os.environ, **addresses}))  # noqa: S603 - the user's own
    except OSError as error:
        raise StackError(f"{program[0]} cannot be run: {error.strerror}.") from error
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in INTERRUPTS:
        signal.signal(number, _already_interrupted)
    raise Interrupted


def _already_interrupted(_number: int, _frame: FrameType | None) -> None:
    """Once is enough: what stops now must not stop half-way."""


def _ports() -> tuple[int, int, int]:
    """The ports of the web server, Flower and Redis."""
    return tuple(_port(name) for name in PORTS)  # type: ignore[return-value]


def _port(setting: str) -> int:
    text = os.environ.get(setting) or str(PORTS[setting])
    if text.isascii() and text.isdigit() and 0 < int(text) < 65_536:
        return int(text)
    raise StackError(f"{setting} must be a port number from 1 to 65535, not {text!r}.")


def _stay_up(console: Console, stack: Stack) -> None:
    """Until a signal interrupts it; StackError when a process keeps dying."""
    while not stack.supervisor.wait_failed(LOOK_SECONDS):
        for name in stack.heal():
            console.print(f"  The embedded {name} had died and was started again.")
    stack.supervisor.check()


def _print_addresses(console: Console, stack: Stack, alice_and_bob: tuple[Person, Person] | None) -> None:
    password = secrets.token_urlsafe(12)
    stack.ensure_staff(STAFF_EMAIL, password)
    url = stack.base_url
    console.print()
    console.rule("[bold]PayFlow is running[/bold]")
    for name, text in (
        ("API", f"{url}/"),
        ("Docs", f"{url}/docs"),
        ("Admin", f"{url}/admin/"),
        ("", f"{STAFF_EMAIL}, password {password} (made for this run)"),
        ("Flower", f"{stack.flower_url}/"),
        ("Logs", str(stack.data_dir / "logs")),
    ):
        _print_raw(console, f"  {name:<8} {text}")
    if alice_and_bob:
        _print_requests(console, url, *alice_and_bob)
    console.print("\n  [bold]Ctrl-C[/bold] stops everything and keeps the data.\n")


def _print_requests(console: Console, url: str, alice: Person, bob: Person) -> None:
    """Lines to paste into another terminal: nothing may wrap or decorate them."""
    console.print("\n  To paste into another terminal: Alice's wallet, and one more transfer of hers.\n")
    body = f'{{"receiver_email": "{bob.email}", "amount": "1.00"}}'
    _print_raw(console, f"TOKEN={alice.access}")
    _print_raw(console, f'curl -s {url}/wallets/me -H "Authorization: Bearer $TOKEN"')
    _print_raw(
        console,
        f'curl -s {url}/transactions -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" '
        f"-H \"Prefer: wait=5\" -d '{body}'",
    )


def _print_raw(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
