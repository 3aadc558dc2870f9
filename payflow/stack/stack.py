"""The whole of PayFlow on one machine, as one thing to start and stop: servers, then processes, then healthy.

`make run`, `make demo`, the load tests and the end-to-end tests all run this.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from payflow.metric_files import remove_dead
from payflow.stack import causes
from payflow.stack.embedded import (
    EmbeddedMongo,
    EmbeddedRedis,
    embedded_servers,
    free_port,
)
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT
from payflow.stack.ports import check_port_free
from payflow.stack.progress import complain
from payflow.stack.supervisor import Supervisor, read_procfile

HEALTHY_SECONDS_MAX = 90.0
WORKERS_SECONDS_MAX = 60.0
COMMAND_SECONDS_MAX = 120.0
POLL_SECONDS = 0.05
REQUEST_SECONDS_MAX = 5.0
STAFF_PASSWORD = "PAYFLOW_STAFF_PASSWORD"  # noqa: S105 - the variable's name
# Settings of whoever starts a stack that must not leak into a stack with addresses of its own.
ADDRESSES = ("MONGODB_URI", "REDIS_URL", "MONGODB_DATABASE", "PAYFLOW_ENV")

Step = Callable[[str], AbstractContextManager[None]]


def _quietly(_title: str) -> AbstractContextManager[None]:
    return nullcontext()


class Stack:
    """Starts and stops one PayFlow. `env` adds settings; MONGODB_URI or REDIS_URL in it replace an embedded
    server. Without `flower_port`, Flower does not run."""

    def __init__(
        self,
        data_dir: Path,
        web_port: int,
        flower_port: int | None,
        redis_port: int,
        env: Mapping[str, str] | None = None,
        *,
        verbose: bool = False,
        step: Step = _quietly,
    ):
        self.data_dir = data_dir.resolve()
        self.web_port = web_port
        self.flower_port = flower_port
        self.redis_port = redis_port
        self.settings = dict(env or {})
        self.host = self.settings.get("PAYFLOW_HOST", "127.0.0.1")
        self.base_url = f"http://{'127.0.0.1' if self.host in ('0.0.0.0', '::') else self.host}:{web_port}"  # noqa: S104
        self.flower_url = f"http://127.0.0.1:{flower_port}" if flower_port else None
        self.mongo: EmbeddedMongo | None = None
        self.redis: EmbeddedRedis | None = None
        self.env: dict[str, str] = {}
        self._verbose = verbose
        self._step = step
        self._supervisor: Supervisor | None = None
        self._cleanup = ExitStack()
        self._is_short = False

    @classmethod
    def on_free_ports(cls, data_dir: Path, env: Mapping[str, str] | None = None) -> Self:
        """A stack for a test, without Flower, on ports that nobody uses."""
        return cls(data_dir, free_port(), None, free_port(), env)

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor of the processes; StackError when the stack was not started."""
        if self._supervisor is None:
            raise StackError("The stack was not started.")
        return self._supervisor

    @property
    def is_started(self) -> bool:
        """Whether there are processes to stop."""
        return self._supervisor is not None

    def start(self) -> None:
        """Returns when PayFlow is healthy; StackError, with nothing left running, when it cannot be."""
        check_port_free(self.web_port, "the web server", "PAYFLOW_WEB_PORT", host=self.host)
        if self.flower_port:
            check_port_free(self.flower_port, "Flower", "PAYFLOW_FLOWER_PORT")
        try:
            self._check_space()
            self._start_servers()
            with self._step("Bring the database up to date (migrations, indexes)"):
                self._checked(
                    [sys.executable, str(ROOT / "manage.py"), "prepare"], "Bringing the database up to date"
                )
            with self._step(f"Start PayFlow ({', '.join(self._commands())}) and wait until it is healthy"):
                self._start_processes()
                self._await_healthy()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process and server, in the order that lets each finish what it holds."""
        self._cleanup.close()
        self._supervisor = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def heal(self) -> list[str]:
        """Starts an embedded server that died again and says which; StackError when that does not help."""
        self.supervisor.check()
        healed = []
        for name, server in (("MongoDB", self.mongo), ("Redis", self.redis)):
            if server is not None and not server.is_running() and self._start_again(server):
                healed.append(name)
        return healed

    def _start_again(self, server: EmbeddedMongo | EmbeddedRedis) -> bool:
        """Starts a server; False on a full disk, where only room helps. StackError for any other reason."""
        try:
            server.start()
        except StackError as error:
            if not causes.is_short(self.data_dir):
                raise
            if not self._is_short:
                complain(f"  {error}\n  It is started as soon as there is room.")
            self._is_short = True
            return False
        self._is_short = False
        return True

    def manage(self, *arguments: str) -> str:
        """Runs a management command on this stack and returns what it printed; StackError if it fails."""
        name = " ".join(["manage.py", *arguments[:1]])
        return self._checked([sys.executable, str(ROOT / "manage.py"), *arguments], f"`{name}`")

    def ensure_staff(self, email: str, password: str) -> None:
        """Makes sure of a staff login; the password goes by the environment: command lines are public."""
        command = [sys.executable, str(ROOT / "manage.py"), "ensure_staff", "--email", email]
        self._checked(command, "`manage.py ensure_staff`", {STAFF_PASSWORD: password})

    def manage_unchecked(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, for a command whose exit status is an answer."""
        return self.run([sys.executable, str(ROOT / "manage.py"), *arguments])

    def _checked(self, command: list[str], what: str, env: Mapping[str, str] | None = None) -> str:
        done = self.run(command, env)
        if done.returncode != 0:
            printed = done.stdout + done.stderr
            cause = causes.cause_of(printed, self.data_dir)
            lines = "".join(f"\n    {line}" for line in printed.strip().splitlines()[-12:])
            raise StackError(f"{what} failed. {cause or 'It ended with:'}{'' if cause else lines}")
        return done.stdout

    def run(
        self, command: list[str], env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program with this stack's settings and those in `env` (bounded)."""
        try:
            return subprocess.run(  # noqa: S603 - PayFlow's own commands
                command,
                env={**self.env, **(env or {})},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_SECONDS_MAX,
            )
        except subprocess.TimeoutExpired:
            name = " ".join(Path(part).name for part in command[:3])
            raise StackError(f"`{name}` did not end within {COMMAND_SECONDS_MAX:.0f} s.") from None

    def _check_space(self) -> None:
        """StackError before the first start of an embedded MongoDB that has too little room to be set up."""
        if self.settings.get("MONGODB_URI") or (self.data_dir / "mongo" / "WiredTiger").exists():
            return
        margin = self.settings.get("STORAGE_FREE_MIN_MB", "")
        needed = causes.first_start_mb(int(margin) if margin.isdecimal() else 0)
        free = causes.free_mb(self.data_dir)
        if free is not None and free < needed:
            raise StackError(
                f"The first start needs {needed} MB of free space in {self.data_dir}, and {free} MB are "
                "free: make room, or set PAYFLOW_DATA_DIR to a folder with more."
            )

    def _start_servers(self) -> None:
        embedded = [
            n for n, k in (("MongoDB", "MONGODB_URI"), ("Redis", "REDIS_URL")) if not self.settings.get(k)
        ]
        title = f"Start the embedded {' and '.join(embedded)}"
        with self._step(title) if embedded else nullcontext():
            servers = self._cleanup.enter_context(
                embedded_servers(self.data_dir, self.redis_port, self.settings)
            )
        self.mongo, self.redis = servers.mongo, servers.redis
        self.env = self._child_env(servers.mongodb_uri, servers.redis_url)

    def _child_env(self, mongodb_uri: str, redis_url: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
        return child_env({**inherited, **self.settings}) | {
            "MONGODB_URI": mongodb_uri,
            "REDIS_URL": redis_url,
            "PAYFLOW_DATA_DIR": str(self.data_dir),
            "PROMETHEUS_MULTIPROC_DIR": str(self._fresh_metrics_dir()),
            "PAYFLOW_HOST": self.host,
            "PAYFLOW_WEB_PORT": str(self.web_port),
            "PAYFLOW_FLOWER_PORT": str(self.flower_port or ""),
            "PAYFLOW_REDIS_PORT": str(self.redis_port),
        }

    def _fresh_metrics_dir(self) -> Path:
        """The folder where this stack's processes share their counts; what dead ones counted is removed."""
        folder = self.data_dir / "metrics"
        folder.mkdir(parents=True, exist_ok=True)
        remove_dead(folder)
        return folder

    def _commands(self) -> dict[str, str]:
        commands = read_procfile(ROOT / "Procfile")
        if self.flower_port is None:
            commands.pop("flower", None)
        return commands

    def _start_processes(self) -> None:
        self._supervisor = Supervisor(
            self._commands(), log_dir=self.data_dir / "logs", env=self.env, cwd=ROOT, verbose=self._verbose
        )
        self._cleanup.callback(self._supervisor.stop)
        self._supervisor.start()

    def _await_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_SECONDS_MAX
        answer = "no answer"
        while time.monotonic() < deadline:
            self.supervisor.check()
            try:
                response = requests.get(f"{self.base_url}/health", timeout=REQUEST_SECONDS_MAX)
            except requests.RequestException:
                time.sleep(POLL_SECONDS)
                continue
            if response.status_code == 200:
                return self._await_workers()
            answer = f"{response.status_code} {response.text[:300]}"
            time.sleep(POLL_SECONDS)
        log = self.supervisor.log("web")
        raise StackError(
            f"{self.base_url}/health did not become healthy within {HEALTHY_SECONDS_MAX:.0f} s ({answer}). "
            f"{causes.why(log, self.data_dir)}"
        )

    def _await_workers(self) -> None:
        """Waits for the workers to say so: a transfer sent before that would merely wait for them."""
        deadline = time.monotonic() + WORKERS_SECONDS_MAX
        for name in ("saga", "webhooks"):
            while b" ready." not in self.supervisor.log(name).read_bytes():
                self.supervisor.check()
                if time.monotonic() > deadline:
                    log = self.supervisor.log(name)
                    raise StackError(
                        f"The worker {name} was not ready within {WORKERS_SECONDS_MAX:.0f} s. "
                        f"{causes.why(log, self.data_dir)}"
                    )
                time.sleep(POLL_SECONDS)


def child_env(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of every process that the stack starts."""
    programs = str(Path(sys.executable).parent)
    return {
        "PAYFLOW_ENV": "development",
        # Many threads would each get an arena of memory that is never given back.
        "MALLOC_ARENA_MAX": "2",
        **settings,
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([programs, settings.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), settings.get("PYTHONPATH", "")])),
    }
