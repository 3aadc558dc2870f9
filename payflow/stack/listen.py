"""`python -m payflow.stack.listen COMMAND --host H --port P …`: run a server unless its port is taken.

Flower says `--address=H --port=P`.

granian listens with SO_REUSEPORT: of two servers on one port each would get a share of the connections, and
neither would say a word. So somebody looks before it starts.
"""

from __future__ import annotations

import os
import sys
import time

from payflow.stack.errors import StackError
from payflow.stack.ports import check_port_free

# A server that was killed may leave its port a moment later than itself.
WAIT_SECONDS_MAX = 3.0
POLL_SECONDS = 0.1


def main(command: list[str]) -> None:
    """Become the command; exit with a sentence where its port is taken."""
    words = [part for word in command for part in word.split("=", 1)]
    is_flower = "flower" in command
    host, port = (_after(words, "--address" if is_flower else "--host"), int(_after(words, "--port")))
    what, setting = ("Flower", "PAYFLOW_FLOWER_PORT") if is_flower else ("the web server", "PAYFLOW_WEB_PORT")
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            check_port_free(port, what, setting, host=host)
            break
        except StackError as error:
            if time.monotonic() > deadline:
                sys.exit(str(error))
        time.sleep(POLL_SECONDS)
    os.execvp(command[0], command)  # noqa: S606 - what the Procfile names


def _after(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


if __name__ == "__main__":
    main(sys.argv[1:])
