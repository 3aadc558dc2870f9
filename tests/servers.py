"""A pytest plugin that gives the tests a real MongoDB engine and a real Redis of their own.

It is loaded with `-p tests.servers` and wraps the loading of the initial conftests, which comes before
pytest-django reads the settings: by then the addresses must stand in the environment. With MONGODB_URI or
REDIS_URL set, the tests use those servers instead, in a database of their own. Workers of pytest-xdist
inherit the environment, and with it the servers.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from payflow.stack.embedded import embedded_servers, free_port
from payflow.stack.errors import StackError
from payflow.stack.paths import read_dotenv

TEST_SETTINGS = {"PAYFLOW_ENV": "test", "MONGODB_DATABASE": "payflow_test"}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    read_dotenv()
    os.environ.update(TEST_SETTINGS)
    if not (os.environ.get("MONGODB_URI") and os.environ.get("REDIS_URL")):
        cleanup = ExitStack()
        early_config.add_cleanup(cleanup.close)
        _start_servers(cleanup)
    yield


def _start_servers(cleanup: ExitStack) -> None:
    data_dir = Path(tempfile.mkdtemp(prefix="payflow-test-"))
    cleanup.callback(shutil.rmtree, data_dir, ignore_errors=True)
    try:
        servers = cleanup.enter_context(embedded_servers(data_dir, free_port()))
    except StackError as error:
        raise pytest.UsageError(str(error)) from None
    os.environ.update({"MONGODB_URI": servers.mongodb_uri, "REDIS_URL": servers.redis_url})
