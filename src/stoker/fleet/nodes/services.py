"""What the node needs from elsewhere: its key service, its store; and whether ranks can be isolated here."""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from stoker.core.errors import StokerError
from stoker.core.isolation import IsolationState
from stoker.fleet.nodes.finding import Finding, fail, not_present, ok, one_line, warn
from stoker.fleet.nodes.machine_view import MachineView

_HTTPS_PORT: Final = 443
_OPENBAO_PORT: Final = 8200
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")


def key_service(view: MachineView) -> Finding:
    """Whether the key service can be reached from here. Nothing is asked of it, and no key is opened."""
    if view.keys_url is None:
        return not_present("no key service is named")
    parts = urlsplit(view.keys_url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if not folder.is_dir():
            return not_present(f"there is no key store in {folder}")
        readable = os.access(folder, os.R_OK | os.X_OK)
        return ok(f"{folder} can be read") if readable else fail(f"{folder} may not be read")
    if parts.scheme == "pkcs11":
        return _module(view.keys_url)
    if parts.scheme == "aws-kms":
        return _aws(view, parts.netloc, parts.query)
    if parts.scheme.startswith("openbao+") and parts.hostname:
        return _connects(view, parts.hostname, parts.port or _OPENBAO_PORT)
    return fail(f"{parts.scheme!a} is no kind of key service")


def _module(url: str) -> Finding:
    named = re.search(r"module-path=([^&;]+)", url)
    if named is None:
        return not_present("the PKCS#11 token's module is not named by its path")
    path = Path(unquote(named[1]))
    return ok(f"{path} is there") if path.is_file() else fail(f"there is no module {path}")


def _aws(view: MachineView, region: str, query: str) -> Finding:
    endpoint = urlsplit((parse_qs(query).get("endpoint") or [""])[0])
    if endpoint.hostname:
        return _connects(view, endpoint.hostname, endpoint.port or _HTTPS_PORT)
    if _REGION.fullmatch(region) is None:
        return fail(f"{region[:40]!a} is no region")
    return _connects(view, f"kms.{region}.amazonaws.com", _HTTPS_PORT)


def _connects(view: MachineView, host: str, port: int) -> Finding:
    began_s = view.clock.monotonic_s()
    try:
        socket.create_connection((host, port), timeout=view.settings.limit_s * 0.9).close()
    except OSError as error:
        return fail(f"{host}:{port} does not answer: {error.strerror or error}")
    took_ms = (view.clock.monotonic_s() - began_s) * 1000
    return ok(f"{host}:{port} took a connection in {took_ms:.0f} ms")


def store(view: MachineView) -> Finding:
    """Write, read and delete a small object; a store in a folder that was never made is not present."""
    if view.store_url is None:
        return not_present("no store is named")
    parts = urlsplit(view.store_url)
    if parts.scheme == "file" and not Path(unquote(parts.path)).is_dir():
        return not_present(f"there is no store in {unquote(parts.path)}")
    from stoker.store.objects import ObjectStore

    key, data = f"probe/{secrets.token_hex(16)}", secrets.token_bytes(64)
    try:
        objects = ObjectStore.open(view.store_url)
        objects.create(key, data)
        try:
            read = objects.get(key)
        finally:
            objects.delete(key)
    except StokerError as error:
        return fail(one_line(f"{error.id}: {error.message}"))
    if read != data:
        return fail(f"{objects.place} gave other bytes than it was given")
    return ok(f"{objects.place} keeps and gives back an object")


def isolation(view: MachineView) -> Finding:
    """Whether a process can be closed off from the network here, as ranks are: tried, not assumed."""
    if view.probe_isolation is None:
        return not_present("nobody can try it from here")
    found = view.probe_isolation()
    if found.state is IsolationState.ISOLATED:
        return ok(found.reason)
    judge = fail if found.state is IsolationState.OPEN else warn
    return judge(one_line(f"{found.state.value}: {found.reason}"))
