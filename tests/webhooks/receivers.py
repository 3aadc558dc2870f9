"""Receivers on loopback that behave as receivers do: well, badly, slowly, or not at all."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Conversation = Callable[[socket.socket], None]


class RawReceiver:
    """A server that takes connections and lets a function do with each what it likes."""

    def __init__(self, converse: Conversation, context: ssl.SSLContext | None = None) -> None:
        self._converse = converse
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://localhost:{self.port}/hook"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            with connection:
                self._converse(connection)

    def close(self) -> None:
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextmanager
def receiving(converse: Conversation, context: ssl.SSLContext | None = None) -> Iterator[RawReceiver]:
    receiver = RawReceiver(converse, context)
    try:
        yield receiver
    finally:
        receiver.close()


def read_request(connection: socket.socket) -> bytes:
    """Return one whole request; nothing where the other side has hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk:
            return b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def answering(answer: bytes) -> Conversation:
    """Take request after request on each connection, and answer all alike."""

    def converse(connection: socket.socket) -> None:
        while read_request(connection):
            connection.sendall(answer)

    return converse


def hang(connection: socket.socket) -> None:
    read_request(connection)
    time.sleep(60)


def hang_up(connection: socket.socket) -> None:
    read_request(connection)


def drip(head: bytes, drops: bytes) -> Conversation:
    """Answer with something that never ends, one byte at a time."""

    def converse(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        for _ in range(10_000):
            connection.sendall(drops)
            time.sleep(0.05)

    return converse


def flood(head: bytes) -> Conversation:
    """Answer with a gigabyte, as fast as it is taken."""

    def converse(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        for _ in range(1_024):
            connection.sendall(b"x" * 1_048_576)

    return converse


def self_signed(folder: Path, *names: str) -> ssl.SSLContext:
    """Return the context of a server whose certificate, for these names, is signed by nobody known.

    The certificate lies in the folder as `certificate.pem`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
    ]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_file = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_file)
    return context
