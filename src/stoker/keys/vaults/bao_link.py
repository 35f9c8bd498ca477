"""Requests to OpenBao (or HashiCorp Vault): sent by hvac under our own TLS rules, answers put into our words.

See docs/design/vaults.md, "OpenBao". No answer's text gets into an error: a batch that failed in part holds
the keys that did open.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from stoker.keys.errors import (
    BadKeysUrl,
    KeyDestroyed,
    KeyNotActive,
    VaultRefused,
    VaultUnreachable,
    WrongContext,
)
from stoker.keys.refs import KekRef
from stoker.keys.vaults.secret_file import read_secret_file
from stoker.keys.vaults.tls import TlsRules, check_url, link_error, missing_extra, session

try:
    import hvac.adapters
    import requests
    import urllib3
except ImportError as error:
    raise missing_extra("hvac") from error

FILE_VARIABLE: Final = "STOKER_VAULT_TOKEN_FILE"
"""Names the file with the token, or a pipe (/dev/fd/N), where the URL does not."""

MAX_ANSWER_BYTES: Final = 1 << 20
CONNECT_S: Final = 5.0
READ_S: Final = 15.0

_MOUNT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*){0,7}")
_FILES: Final = ("token_file", "ca_file", "client_cert", "client_key")
_HINT: Final = (
    "Expected openbao+https://HOST:PORT/MOUNT?token_file=/PATH, and as a query: registry, ca_file, "
    "client_cert, client_key, spiffe_id, plain_loopback (yes)."
)
_RIGHTS_HINT: Final = (
    "Put a token that is in force into the token file; it is read again. It needs the rights that "
    "docs/design/vaults.md names."
)

_MEANINGS: Final = (
    ("refusing to use soft-deleted key", KeyNotActive),
    ("encryption key not found", KeyDestroyed),
    ("no existing key named", KeyDestroyed),
    ("could not delete key; not found", KeyDestroyed),
    ("convergent encryption requires derivation", KeyDestroyed),
    ("message authentication failed", WrongContext),
    ("invalid ciphertext", WrongContext),
)
"""What transit says of a key, and which error that is; see `ask` for why the fourth one is there."""

_LATER: Final = frozenset({412, 429, 472, 473})
"""Not yet replicated, throttled, a standby that does not answer."""


@dataclass(frozen=True, slots=True)
class BaoPlace:
    """Which transit mount, and how it is reached. The token lies in a file and nowhere else."""

    origin: str
    mount: str
    token_file: Path
    rules: TlsRules

    @property
    def name(self) -> str:
        """For people."""
        return f"openbao {self.origin}/{self.mount}"

    @classmethod
    def parse(cls, url: str) -> BaoPlace:
        """Raises BadKeysUrl or InsecureLink; neither shows what the query holds."""
        parts = urlsplit(url)
        named = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "token_file" not in named and FILE_VARIABLE in os.environ:
            named["token_file"] = os.environ[FILE_VARIABLE]
        mount = parts.path.removeprefix("/").removesuffix("/")
        scheme = parts.scheme.removeprefix("openbao+")
        known = {*_FILES, "spiffe_id", "plain_loopback"}
        named_well = parts.scheme in ("openbao+https", "openbao+http") and _MOUNT.fullmatch(mount) is not None
        if not named_well or not set(named) <= known or parts.fragment or "token_file" not in named:
            raise BadKeysUrl("This does not name a transit mount of OpenBao.", hint=_HINT)
        if named.get("plain_loopback", "yes") != "yes":
            raise BadKeysUrl("`plain_loopback` is yes, or is left out.", hint=_HINT)
        files = {name: Path(named[name]) for name in _FILES if name in named}
        if not all(each.is_absolute() for each in files.values()):
            raise BadKeysUrl("A file is named by its absolute path.", hint=_HINT)
        token_file = files.pop("token_file")
        rules = TlsRules(**files, spiffe_id=named.get("spiffe_id"), plain_loopback="plain_loopback" in named)
        origin = f"{scheme}://{parts.netloc}"
        check_url(origin, rules)
        return cls(origin, mount, token_file, rules)


class NotAllowed(Exception):
    """The token is in force, and may not do this."""


class NotKnown(Exception):
    """The service has no such request: it is of another make or too old."""


class BaoLink:
    """One client of this process on one transit mount. Threads may share it."""

    def __init__(self, place: BaoPlace) -> None:
        self._place = place
        self._session = session(place.origin, place.rules)
        self._token: str | None = None

    def ask(self, ref: KekRef, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The members of one answer about a KEK; empty where there is none (204).

        `path` is below the mount. Raises WrongContext, KeyNotActive or KeyDestroyed by what transit says of
        the key, NotAllowed, NotKnown, VaultRefused for a token that is over and for everything else that
        another try does not mend, VaultUnreachable for what it may, InsecureLink.
        """
        status, answer = self._send(verb, f"{self._place.mount}/{path}", body)
        if status == 204:
            return {}
        data = answer.get("data")
        if status == 200 and isinstance(data, dict):
            return data
        if status == 403:
            raise self._forbidden(ref)
        self._check_service(status)
        raise self._meaning(ref, status, _texts(answer))

    def _check_service(self, status: int) -> None:
        if status >= 500 or status in _LATER:
            raise VaultUnreachable(
                f"{self._place.name} fails for now (status {status}).",
                hint="Check that it is unsealed and has a leader. Nothing was lost.",
            )

    def _meaning(self, ref: KekRef, status: int, texts: list[str]) -> Exception:
        for phrase, kind in _MEANINGS:
            if any(phrase in each for each in texts):
                return self.error(kind, ref)
        if status == 404 and not texts:
            return self.error(KeyDestroyed, ref)
        if any("unsupported" in each for each in texts):
            return NotKnown()
        return VaultRefused(
            f"{self._place.name} refuses a request about KEK {ref} (status {status}).",
            hint="Check the mount's name, that it is of type transit, and the service's own audit log.",
        )

    def error(self, kind: type[Exception], ref: KekRef) -> Exception:
        """An error of one of four kinds, in our words."""
        if kind is WrongContext:
            return WrongContext(
                f"The wrapped key of {ref} does not open.",
                hint="It was changed, belongs to another KEK, or was wrapped for another place or purpose.",
            )
        if kind is KeyNotActive:
            return KeyNotActive(
                f"{self._place.name} has KEK {ref} disabled.",
                hint="A destruction is pending, or it is suspended.",
            )
        return KeyDestroyed(
            f"{self._place.name} has no KEK {ref} any more.",
            hint="It was destroyed, or this is another mount than the one that made it.",
        )

    def _forbidden(self, ref: KekRef) -> Exception:
        """Whose fault a 403 is: asked of the service itself, because its text does not say."""
        status, _ = self._send("get", "auth/token/lookup-self", None)
        self._check_service(status)
        if status == 200:
            return NotAllowed()
        self._token = None  # the file may hold a newer one by the next try
        return VaultRefused(
            f"{self._place.name} does not take the token in {self._place.token_file}: it has expired, was "
            "revoked, or may not look itself up.",
            hint=_RIGHTS_HINT,
        )

    def not_known(self) -> VaultRefused:
        """The error for NotKnown."""
        return VaultRefused(
            f"{self._place.name} does not know this request: it is of another make or too old.",
            hint="Use OpenBao 2.7 or a service that speaks the same words.",
        )

    def not_allowed(self, ref: KekRef) -> VaultRefused:
        """The error for NotAllowed."""
        return VaultRefused(
            f"{self._place.name} does not let the token in {self._place.token_file} do this to KEK {ref}.",
            hint=_RIGHTS_HINT,
        )

    def _send(self, verb: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """Status and body. Raises VaultUnreachable, InsecureLink or LooseKeyFile."""
        if self._token is None:
            self._token = read_secret_file(self._place.token_file, "a token of OpenBao")
        sender = hvac.adapters.RawAdapter(
            base_uri=self._place.origin,
            token=self._token,
            session=self._session,
            timeout=(CONNECT_S, READ_S),
            allow_redirects=False,
            request_header=True,
        )
        try:
            answer = sender.request(verb, f"/v1/{path}", raise_exception=False, json=body, stream=True)
            content = answer.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
            if len(content) > MAX_ANSWER_BYTES:
                answer.close()
                raise VaultUnreachable(f"{self._place.name} gives an absurdly long answer.")
            answer.raw.release_conn()
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise link_error(error, self._place.name) from error
        try:
            parsed: Any = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            self._check_service(answer.status_code)
            raise VaultRefused(
                f"What answers as {self._place.name} is no OpenBao (status {answer.status_code}).",
                hint="Check the address and the port.",
            )
        return answer.status_code, parsed

    def close(self) -> None:
        """Close the connections and forget the token."""
        self._token = None
        self._session.close()


def _texts(answer: dict[str, Any]) -> list[str]:
    """What the service says is wrong, of the request or of the first of a batch that did not do."""
    errors = answer.get("errors")
    texts = [each for each in errors if isinstance(each, str)] if isinstance(errors, list) else []
    data = answer.get("data")
    results = data.get("batch_results") if isinstance(data, dict) else None
    for each in results if isinstance(results, list) else ():
        if isinstance(each, dict) and each.get("error"):
            return [*texts, str(each["error"])]
    return texts
