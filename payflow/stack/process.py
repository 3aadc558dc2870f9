"""One child process: in a process group of its own, writing to a log, never outliving its parent.

A group, because PayFlow's processes have children (Celery's pool, Granian's workers) that must go when
they go. Never outliving, because a parent that is killed with SIGKILL can clean up nothing: a watcher inside
the group holds the reading end of a pipe whose only writer is the parent, and ends the group once that pipe
closes. As a member of the group it also keeps the group's id from being given to a stranger meanwhile.
(PR_SET_PDEATHSIG would be shorter, but fires when the parent's *thread* ends and exists on Linux only.)
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from payflow.stack.errors import StackError

WATCHER_GRACE_SECONDS = 8
KILL_SECONDS_MAX = 30
_SCRIPT = f"""
exec 3<&0 </dev/null
( trap '' TERM INT HUP QUIT
  read -r closed <&3
  kill -TERM $$
  for second in {" ".join(map(str, range(WATCHER_GRACE_SECONDS)))}; do
    sleep 1
    kill -0 $$ || break
  done
  kill -KILL -$$ ) >/dev/null 2>&1 &
exec "$@" 3<&-
"""


class Process:
    """A child and everything it started, as one thing to start, signal and stop."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path):
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = dict(env)
        self.cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, *, append: bool = False) -> None:
        """Starts the command; `append` keeps the log of the run before."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab" if append else "wb") as log:
            try:
                self._child = subprocess.Popen(  # noqa: S603 - the command is PayFlow's own
                    ["/bin/sh", "-c", _SCRIPT, self.name, *self.command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.env,
                    cwd=self.cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise StackError(f"{self.name} cannot be started: {error}.") from error

    @property
    def pid(self) -> int:
        """The process id of the command (and the id of its group)."""
        if self._child is None:
            raise StackError(f"{self.name} was not started.")
        return self._child.pid

    def is_running(self) -> bool:
        """Whether the command was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_status(self) -> int | None:
        """As subprocess gives it: negative for a signal, None while running or before the start."""
        return None if self._child is None else self._child.poll()

    def signal(self, number: int) -> None:
        """Sends a signal to the whole group; nothing happens when it is gone."""
        if self._child is not None:
            _signal_group(self._child.pid, number)

    def ask_to_stop(self) -> None:
        """SIGTERM to the command alone: it knows how to end its children, which a signal would cut short."""
        if self._child is not None:
            self._child.terminate()

    def stop(self, grace_seconds: float) -> bool:
        """Asks, waits, then insists with SIGKILL. False when it had to insist."""
        self.ask_to_stop()
        return self.reap(grace_seconds)

    def reap(self, grace_seconds: float) -> bool:
        """Waits for the command to end, then removes whatever is left of its group."""
        child = self._child
        if child is None:
            return True
        ended = True
        try:
            child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            ended = False
        _signal_group(child.pid, signal.SIGKILL)
        child.wait(KILL_SECONDS_MAX)
        if child.stdin is not None:
            child.stdin.close()
        return ended

    def kill(self) -> None:
        """Ends the whole group at once, as a power cut would."""
        self.signal(signal.SIGKILL)
        self.reap(KILL_SECONDS_MAX)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
    except PermissionError:  # macOS answers so for a group of which only zombies are left
        return
