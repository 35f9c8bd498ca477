"""The rules of `tls` inside `requests` and urllib3. Imported only where a remote vault is used."""

from __future__ import annotations

import ssl
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

POOL: int = 16
"""Connections that are kept open to one service."""


class CheckedAdapter(HTTPAdapter):
    """Sends with one TLS context, whatever `verify`, `cert` and proxies a caller or the environment names.

    `requests` would add its own bundle of authorities to the pinned ones, and drop all checks on
    `verify=False`; both are left out here.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=POOL)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **more, **_checked(self._context))

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        return None

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        raise requests.exceptions.ProxyError("a key vault is not reached through a proxy")


def pool(context: ssl.SSLContext | None) -> urllib3.PoolManager:
    """Connections that keep the rules, for libraries that let us send."""
    return urllib3.PoolManager(num_pools=1, maxsize=POOL, retries=False, **_checked(context))


def _checked(context: ssl.SSLContext | None) -> dict[str, Any]:
    return {} if context is None else {"ssl_context": context, "cert_reqs": ssl.CERT_REQUIRED}
