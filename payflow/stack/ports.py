"""Ports of this machine: whether one is free to listen on. Imports nothing that an image would lack."""

from __future__ import annotations

import socket

from payflow.stack.errors import StackError


def check_port_free(port: int, what: str, setting: str, *, host: str = "127.0.0.1") -> None:
    """StackError naming the port, its user and the setting to change when somebody listens there.

    Also where that listener would share the port (SO_REUSEPORT): this probe would not.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"Port {port}, wanted for {what}, cannot be used ({error.strerror}): stop the program that "
                f"listens there, or choose another port, as in `{setting}={port + 1} make run`."
            ) from None
