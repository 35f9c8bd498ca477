"""Authorities, certificates and TLS servers for tests, made afresh: nothing here outlives a test.

authority = Authority(tmp_path)                         # authority.ca_file
shown = authority.issue("service", hosts=["localhost", "127.0.0.1"], uris=["spiffe://stoker.test/bao"])
with tls_server(shown) as port: ...                     # answers every request with 200 and "{}"
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Shown:
    """What one side shows: its certificate with the key, in two PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority that lives in `folder`."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        built = (
            _builder(self.name, self.name, self._key.public_key(), NOW - DAY, NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / f"{name.replace(' ', '-')}.pem"
        self.ca_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        uris: Sequence[str] = (),
        days: tuple[int, int] = (-1, 1),
        self_signed: bool = False,
    ) -> Shown:
        """A certificate for `hosts` and `uris`, good from `days[0]` to `days[1]` counted from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        issuer, signing = (subject, key) if self_signed else (self.name, self._key)
        begin, end = (NOW + DAY * each for each in days)
        built = (
            _builder(subject, issuer, key.public_key(), begin, end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(signing, hashes.SHA256())
        )
        shown = Shown(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        shown.cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
        shown.key.touch(0o600)
        shown.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return shown


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


@dataclass
class Heard:
    """A running server: its port, and every request line that reached it in the clear."""

    port: int
    requests: list[str] = field(default_factory=list)
    redirect_to: str | None = None

    def url(self, scheme: str = "https", host: str = "localhost") -> str:
        return f"{scheme}://{host}:{self.port}"


@contextlib.contextmanager
def tls_server(
    shown: Shown | None,
    *,
    at_most: ssl.TLSVersion | None = None,
    ciphers: str | None = None,
    client_ca: Path | None = None,
) -> Iterator[Heard]:
    """A server on loopback with TLS as told, or without any where nothing is shown."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.requests.append(self.requestline)
            if heard.redirect_to is not None:
                self.send_response(307)
                self.send_header("Location", heard.redirect_to)
            else:
                self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            return None

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            return None  # a client that ends the handshake is what these tests are about

    server = Server(("127.0.0.1", 0), Answer)
    heard = Heard(server.server_port)
    if shown is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shown.cert, shown.key)
        if at_most is not None:
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = at_most
        if ciphers is not None:
            context.set_ciphers(ciphers)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        # The handshake is done by the handler's thread, so that one that fails stops nobody else.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
