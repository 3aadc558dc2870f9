"""The embedded servers: known addresses, data that survives, no server without its parent."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pymongo
import pytest
import redis

from payflow.stack.embedded import (
    AlreadyRunningError,
    EmbeddedMongo,
    EmbeddedRedis,
    embedded_servers,
    free_port,
    running_stack,
)
from payflow.stack.errors import StackError
from payflow.stack.paths import ROOT, mongo_socket, mongo_uri
from payflow.stack.ports import check_port_free
from tests.engine import needs_engine

WAIT_SECONDS_MAX = 30.0
pytestmark = needs_engine
HOLDER = """
import sys, time
from pathlib import Path
from payflow.stack.embedded import embedded_servers
with embedded_servers(Path(sys.argv[1]), int(sys.argv[2]), {}) as servers:
    print(servers.mongo.pid, servers.redis.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[EmbeddedMongo]:
    server = EmbeddedMongo(tmp_path)
    yield server
    server.stop()


def test_mongodb_keeps_what_it_acknowledged_through_a_kill(mongo: EmbeddedMongo) -> None:
    mongo.start()
    with pymongo.MongoClient(mongo.uri) as client:
        client.test.things.insert_many([{"_id": number} for number in range(1_000)])
        mongo.kill()
        assert not mongo.is_running()
        mongo.start()
        assert client.test.things.count_documents({}) == 1_000


def test_mongodb_keeps_its_data_and_address_through_a_stop(mongo: EmbeddedMongo) -> None:
    uri = mongo.uri
    mongo.start()
    with pymongo.MongoClient(uri) as client:
        client.test.things.insert_one({"_id": 1})
    mongo.stop()
    assert not mongo_socket(mongo.data_dir).parent.exists()
    mongo.start()
    assert mongo.uri == uri == mongo_uri(mongo.data_dir)
    with pymongo.MongoClient(uri) as client:
        assert client.test.things.count_documents({}) == 1


def test_a_second_engine_on_the_same_folder_fails_and_leaves_the_first_alone(mongo: EmbeddedMongo) -> None:
    mongo.start()
    with pytest.raises(StackError, match=r"MongoDB ended at once with .*\. Its log .* ends with:"):
        EmbeddedMongo(mongo.data_dir).start()
    with pymongo.MongoClient(mongo.uri, serverSelectionTimeoutMS=5_000) as client:
        assert client.admin.command("ping")["ok"] == 1


def test_the_sockets_path_is_short_whatever_the_data_folders_is(tmp_path: Path) -> None:
    assert len(str(mongo_socket(tmp_path / ("long" * 50)))) < 100


def test_a_socket_folder_that_others_may_enter_is_refused(mongo: EmbeddedMongo) -> None:
    folder = mongo_socket(mongo.data_dir).parent
    folder.mkdir(mode=0o755)
    try:
        with pytest.raises(StackError, match="not a private folder of yours"):
            mongo.start()
    finally:
        folder.rmdir()


def test_redis_keeps_its_data_through_a_kill(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, free_port())
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
            server.kill()
            server.start()
            assert client.get("key") == b"value"
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    finally:
        server.stop()


def test_a_port_in_use_is_one_sentence_with_the_setting_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError) as caught:
            check_port_free(port, "the web server", "PAYFLOW_WEB_PORT")
    assert f"Port {port}, wanted for the web server, cannot be used" in str(caught.value)
    assert f"PAYFLOW_WEB_PORT={port + 1} make run" in str(caught.value)


def test_a_second_stack_on_the_same_data_is_one_sentence(tmp_path: Path) -> None:
    named = {"MONGODB_URI": "mongodb://db.example", "REDIS_URL": "redis://cache.example"}
    (tmp_path / "servers.json").touch(mode=0o644)  # as a stack that was killed may leave it
    with embedded_servers(tmp_path, 1, named) as servers:
        assert (servers.mongo, servers.redis) == (None, None)
        assert running_stack(tmp_path) == (os.getpid(), named)
        assert (tmp_path / "servers.json").stat().st_mode & 0o777 == 0o600
        with (
            pytest.raises(
                AlreadyRunningError, match=r"already runs on .*: stop it first .* PAYFLOW_DATA_DIR"
            ),
            embedded_servers(tmp_path, 1, named),
        ):
            pass
    assert running_stack(tmp_path) is None


def test_servers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), str(free_port())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _wait_until(lambda: not any(_alive(pid) for pid in pids))
    assert running_stack(tmp_path) is None
    with embedded_servers(tmp_path, free_port(), {}):
        pass


def test_without_the_engine_the_sentence_says_how_to_get_it(
    mongo: EmbeddedMongo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAYFLOW_ENGINE_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(StackError, match=r"not installed: run `make setup`, or set MONGODB_URI"):
        mongo.start()


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
