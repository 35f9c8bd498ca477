"""Requests to AWS KMS: signed by boto3, sent under our own TLS rules, failures put into our words.

See docs/design/vaults.md, "AWS KMS". botocore's own sender, retries and proxies are not used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from stoker.keys.errors import BadKeysUrl, VaultRefused, VaultUnreachable
from stoker.keys.vaults.tls import TlsRules, check_url, link_error, missing_extra, tls_context

try:
    import boto3
    import botocore.awsrequest
    import botocore.config
    import botocore.exceptions
    import urllib3

    from stoker.keys.vaults.https import pool
except ImportError as error:
    raise missing_extra("boto3") from error

MAX_ANSWER_BYTES: Final = 65_536
TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=15.0)

_AGAIN: Final = frozenset(
    {
        "DependencyTimeoutException",
        "KeyUnavailableException",
        "KMSInternalException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_HINT: Final = (
    "Expected aws-kms://REGION, and as a query: endpoint, profile, origin (aws or external), ca_file, "
    "client_cert, client_key, spiffe_id, plain_loopback (yes)."
)


@dataclass(frozen=True, slots=True)
class KmsPlace:
    """Which KMS, and how it is reached. Credentials come the ways boto3 knows, and never out of this."""

    region: str
    endpoint: str
    rules: TlsRules
    external: bool = False
    """The KEK's bytes are made here and imported, so that destroying them takes effect at once."""
    profile: str | None = None

    @classmethod
    def parse(cls, url: str) -> KmsPlace:
        """Raises BadKeysUrl or InsecureLink."""
        parts = urlsplit(url)
        named = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = {"endpoint", "profile", "origin", *_FILES, "spiffe_id", "plain_loopback"}
        region = parts.netloc
        if parts.scheme != "aws-kms" or not region or parts.path or parts.fragment or not set(named) <= known:
            raise BadKeysUrl("This does not name an AWS KMS.", hint=_HINT)
        if not all(each.isalnum() and each.isascii() for each in region.split("-")):
            raise BadKeysUrl(f"{region[:60]!a} is no region.", hint=_HINT)
        if (
            named.get("origin", "aws") not in ("aws", "external")
            or named.get("plain_loopback", "yes") != "yes"
        ):
            raise BadKeysUrl("An AWS KMS has no such setting.", hint=_HINT)
        files = {name: Path(named[name]) for name in _FILES if name in named}
        if not all(each.is_absolute() for each in files.values()):
            raise BadKeysUrl("A file is named by its absolute path.", hint=_HINT)
        rules = TlsRules(
            **files, spiffe_id=named.get("spiffe_id"), plain_loopback=named.get("plain_loopback") == "yes"
        )
        endpoint = named.get("endpoint", f"https://kms.{region}.amazonaws.com")
        check_url(endpoint, rules)
        return cls(region, endpoint, rules, named.get("origin") == "external", named.get("profile"))


_FILES: Final = ("ca_file", "client_cert", "client_key")


class _Body:
    """An answer's body where botocore looks for it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        yield self._content


class KmsLink:
    """One KMS client of this process."""

    def __init__(self, place: KmsPlace) -> None:
        self.name = f"aws-kms {place.region}"
        for library in ("boto3", "botocore", "urllib3"):  # below INFO they write requests and answers
            logger = logging.getLogger(library)
            logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))
        parts = check_url(place.endpoint, place.rules)
        self._pool = pool(tls_context(place.rules) if parts.scheme == "https" else None)
        settings = botocore.config.Config(
            retries={"mode": "standard", "total_max_attempts": 1}, inject_host_prefix=False
        )
        try:
            session = boto3.session.Session(profile_name=place.profile, region_name=place.region)
            self._client: Any = session.client("kms", endpoint_url=place.endpoint, config=settings)
        except botocore.exceptions.BotoCoreError as error:
            raise VaultRefused(
                f"{self.name} cannot be used: {type(error).__name__}.", hint=_CREDENTIALS_HINT
            ) from error
        self._client.meta.events.register("before-send.kms", self._send)

    def _send(self, request: Any, **_: object) -> Any:
        """In the place of botocore's sender: the same bytes, over a link that keeps the rules."""
        headers = {
            name: value.decode("ascii") if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        try:
            answer = self._pool.request(
                request.method,
                request.url,
                body=request.body,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=TIMEOUT,
            )
            content = answer.read(MAX_ANSWER_BYTES + 1, decode_content=False)
            if len(content) > MAX_ANSWER_BYTES:
                answer.close()
                raise VaultUnreachable(f"{self.name} gives an absurdly long answer.", hint=_CREDENTIALS_HINT)
            answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise link_error(error, self.name) from error
        return botocore.awsrequest.AWSResponse(request.url, answer.status, answer.headers, _Body(content))

    def ask(self, action: str, meanings: dict[str, Callable[[str], Exception]], **words: Any) -> Any:
        """The answer to one request. `meanings` says which error an error code of KMS is, by its message.

        Raises VaultUnreachable for what may be tried again, VaultRefused for any other refusal, InsecureLink.
        """
        try:
            return getattr(self._client, action)(**words)
        except botocore.exceptions.ClientError as error:
            said = error.response.get("Error", {})
            code, message = str(said.get("Code", "")), str(said.get("Message", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in meanings:
                raise meanings[code](message) from error
            if code in _AGAIN or status >= 500 or status == 429:
                raise VaultUnreachable(
                    f"{self.name} fails for now ({code[:60]}).", hint="Run it again later; nothing was lost."
                ) from error
            raise VaultRefused(
                f"{self.name} refuses {action} ({code[:60]}).", hint=_CREDENTIALS_HINT
            ) from error
        except botocore.exceptions.BotoCoreError as error:
            raise VaultRefused(
                f"{self.name} is not asked: {type(error).__name__}.", hint=_CREDENTIALS_HINT
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()
        self._client.close()


_CREDENTIALS_HINT: Final = (
    "Check the credentials that AWS programs use here, when they expire, and what their role, the key's "
    "policy and its grants allow."
)
