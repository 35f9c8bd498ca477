"""The rules of every link to a remote key vault: who is at the other end, and how it is protected.

https only, TLS 1.2 or newer with forward secrecy and AEAD ciphers, the authority pinned by a file where one
is named, the server's name checked and, where asked for, its SPIFFE id on top. Plain http is for this
machine's own loopback address, and only by an explicit word. See docs/design/vaults.md, "Links".
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import SplitResult, urlsplit

from stoker.core.errors import MissingExtra, StokerError
from stoker.keys.errors import InsecureLink, VaultUnreachable
from stoker.keys.root import open_private

if TYPE_CHECKING:
    import requests

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of TLS 1.3 are all of this kind."""

_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""The connection broke: says nothing about who is there, so it may be tried again."""


@dataclass(frozen=True, slots=True)
class TlsRules:
    """What must hold of a link. Without `ca_file` the system's authorities are trusted, and all of them."""

    ca_file: Path | None = None
    """PEM file with the only authorities that count."""
    client_cert: Path | None = None
    """PEM file with the certificate, and its chain, that this side shows."""
    client_key: Path | None = None
    """PEM file of mode 0600 with its key, without a passphrase."""
    spiffe_id: str | None = None
    """The one URI that the server's certificate must carry, `spiffe://DOMAIN/PATH`, beside its host name."""
    plain_loopback: bool = False
    """Plain http is allowed to an address of this machine's loopback interface."""


def check_url(url: str, rules: TlsRules) -> SplitResult:
    """The parts of an address that a vault may have. Raises InsecureLink, without showing what it holds."""
    parts = urlsplit(url)
    try:
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_number = False
    if parts.hostname is None or not port_is_number:
        raise InsecureLink("The address of the key service names no host.", hint=_ADDRESS_HINT)
    place = f"{parts.scheme}://{parts.hostname}"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InsecureLink(
            f"The address of the key service {place} holds a user, a password, a query or a fragment.",
            hint="An address is no place for a secret: logs and process lists show it. " + _ADDRESS_HINT,
        )
    if parts.scheme == "https":
        return parts
    if parts.scheme == "http" and rules.plain_loopback and _is_loopback(parts.hostname):
        return parts
    raise InsecureLink(
        f"The key service {place} would be reached without TLS: keys would cross the network in the clear.",
        hint="Use https://. Plain http is for a service on this machine's own loopback address, "
        "and only with `plain_loopback`.",
    )


_ADDRESS_HINT: Final = "Expected https://HOST:PORT."


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _CheckedSocket(ssl.SSLSocket):
    """A TLS socket whose handshake ends with a look at who answered, before anything is sent."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        cast("CheckedContext", self.context).check_peer(self)


class CheckedContext(ssl.SSLContext):
    """An SSLContext that keeps the rules with any client library that takes one."""

    spiffe_id: str | None = None
    sslsocket_class = _CheckedSocket

    def check_peer(self, link: ssl.SSLSocket) -> None:
        """Raises ssl.SSLCertVerificationError when the server's SPIFFE id is not the one asked for."""
        if self.spiffe_id is None:
            return
        names = (link.getpeercert() or {}).get("subjectAltName", ())
        uris = [name for kind, name in cast("tuple[tuple[str, str], ...]", names) if kind == "URI"]
        if uris != [self.spiffe_id]:
            shown = ", ".join(each[:200] for each in uris[:3]) or "no URI"
            raise ssl.SSLCertVerificationError(f"the certificate names {shown!a}, not {self.spiffe_id!a}")


def tls_context(rules: TlsRules) -> CheckedContext:
    """A context that keeps `rules`. Raises InsecureLink for files that cannot be used, LooseKeyFile."""
    if rules.spiffe_id is not None and not rules.spiffe_id.startswith("spiffe://"):
        raise InsecureLink(
            f"{rules.spiffe_id[:200]!a} is no SPIFFE id.", hint="Expected spiffe://TRUST-DOMAIN/PATH."
        )
    if rules.spiffe_id is not None and rules.ca_file is None:
        raise InsecureLink(
            "A SPIFFE id counts only when the authorities that may give it are pinned.",
            hint="Name the trust domain's bundle as `ca_file`.",
        )
    context = CheckedContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and the host's name
    context.spiffe_id = rules.spiffe_id
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if rules.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cafile=rules.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InsecureLink(
                f"The authorities in {rules.ca_file} cannot be read.",
                hint="Name a PEM file with the certificate of the authority that signed the key service's.",
            ) from error
    _show_certificate(context, rules)
    return context


def _show_certificate(context: ssl.SSLContext, rules: TlsRules) -> None:
    if rules.client_cert is None:
        return
    key = rules.client_key or rules.client_cert
    descriptor = open_private(key)
    if descriptor is not None:
        os.close(descriptor)
    try:
        context.load_cert_chain(rules.client_cert, key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise InsecureLink(
            f"The client certificate {rules.client_cert} with the key in {key} cannot be used.",
            hint="Both must be PEM files that belong together, and the key must have no passphrase.",
        ) from error


def session(url: str, rules: TlsRules) -> requests.Session:
    """A session of `requests` that reaches the origin of `url` and nothing else.

    It follows no redirect, reads no proxy, authority or password out of the environment or the home folder,
    and cannot be talked out of checking by `verify=False`. Raises InsecureLink, LooseKeyFile, MissingExtra.
    """
    parts = check_url(url, rules)
    try:
        import requests

        from stoker.keys.vaults.https import CheckedAdapter
    except ImportError as error:
        raise missing_extra("requests") from error
    made = requests.Session()
    made.trust_env = False
    made.max_redirects = 0
    made.adapters.clear()
    context = tls_context(rules) if parts.scheme == "https" else None
    made.mount(f"{parts.scheme}://{parts.netloc}/", CheckedAdapter(context))
    return made


def link_error(error: BaseException, place: str) -> StokerError:
    """What a client library's failure to speak with `place` means.

    InsecureLink when the other end is not who it must be, or the two agree on no TLS: never worth another
    try. VaultUnreachable for everything else. An error of ours inside is returned as it is.
    """
    for each in _causes(error):
        if isinstance(each, StokerError):
            return each
        if isinstance(each, ssl.SSLError) and not isinstance(each, _CUT):
            said = getattr(each, "verify_message", "") or getattr(each, "reason", "") or str(each)
            return InsecureLink(
                f"{place} is not reached: its TLS does not keep the rules ({str(said)[:300]}).",
                hint="Check the address, the pinned `ca_file`, the service's certificate (dates, host name, "
                "SPIFFE id) and whether it asks for a client certificate. Do not loosen the rules.",
            )
    return VaultUnreachable(
        f"{place} does not answer ({type(error).__name__}).",
        hint="Check that it runs and is unsealed, and the network on the way. Nothing was lost.",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it was made of, wherever a library has put it."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or any(each is other for other in seen):
            continue
        seen.append(each)
        waiting += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
        yield each


def missing_extra(package: str) -> MissingExtra:
    """The error where a remote vault's package is not installed."""
    return MissingExtra(
        f"This key vault needs the package {package}, which is not installed.",
        hint='Install Stoker with the extra `kms`: pip install "stoker[kms]".',
    )
