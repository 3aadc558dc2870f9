"""A pytest plugin that gives the tests a real MongoDB engine and a real Redis of their own.

It is loaded with `-p tests.servers` and wraps the loading of the initial conftests, which comes before
pytest-django reads the settings: by then the addresses must stand in the environment. Every process that
runs tests has its own: with pytest-xdist each worker starts its servers, and the process that only hands
out tests starts none. That one gives all of tests/chaos to one worker, because each of them keeps the
machine busy with a stack of many processes. With MONGODB_URI or REDIS_URL set, the tests use those servers
instead, each process in a database of its own.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from payflow.stack.embedded import embedded_servers, free_port
from payflow.stack.errors import StackError
from payflow.stack.paths import read_dotenv


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    read_dotenv()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    os.environ.update({"PAYFLOW_ENV": "test", "MONGODB_DATABASE": f"payflow_test{worker}"})
    # A machine that is busy with tests may stand still for longer than a request waits for Redis.
    os.environ.setdefault("REDIS_REQUEST_SECONDS", "5")
    if os.environ.get("MONGODB_URI") and os.environ.get("REDIS_URL"):
        if worker:
            os.environ["REDIS_URL"] = _redis_of_worker(os.environ["REDIS_URL"], int(worker.lstrip("gw")))
    elif worker or not getattr(early_config.known_args_namespace, "numprocesses", None):
        cleanup = ExitStack()
        early_config.add_cleanup(cleanup.close)
        _start_servers(cleanup)
    yield


class ChaosTogether(LoadScopeScheduling):
    """Hands out test by test, but what runs a whole stack as one."""

    def _split_scope(self, nodeid: str) -> str:
        return "chaos" if nodeid.startswith("tests/chaos/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One more than there are cores: half of the time a test waits for processes that it has started."""
    # None leaves it to xdist, which reads this variable.
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return ChaosTogether(config, log)


def _redis_of_worker(url: str, number: int) -> str:
    """Return the address of a database that no other worker uses; a Redis has 16 unless told otherwise."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{number + 1}"))


def _start_servers(cleanup: ExitStack) -> None:
    data_dir = Path(tempfile.mkdtemp(prefix="payflow-test-"))
    cleanup.callback(shutil.rmtree, data_dir, ignore_errors=True)
    try:
        servers = cleanup.enter_context(embedded_servers(data_dir, free_port()))
    except StackError as error:
        raise pytest.UsageError(str(error)) from None
    os.environ.update({"MONGODB_URI": servers.mongodb_uri, "REDIS_URL": servers.redis_url})
