"""From `[keys] url` to a key back end. See docs/design/keys.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stoker.core.clock import Clock
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import BadKeysUrl
from stoker.keys.file_backend import FileBackend
from stoker.keys.keystore_folder import KeystoreFolder
from stoker.keys.open_keystore import open_keystore
from stoker.keys.registry import Registry
from stoker.keys.root_sources import WrappedRoot
from stoker.keys.vault import KekVault

_HINT = (
    "Expected file:///absolute/path/of/a/folder, openbao+https://HOST:PORT/MOUNT?token_file=…, "
    "pkcs11:token=LABEL?module-path=…, or aws-kms://REGION."
)


def open_backend(
    url: str, *, clock: Clock, passphrase: Callable[[], str] | None, folder: Path | None = None
) -> KeyBackend:
    """The back end that `url` names: `file:///path/keys` is a folder on this machine.

    Over OpenBao, a PKCS#11 token and AWS KMS the registry lies in the folder that `registry=/path` in the
    query names, or in `folder`. A new file key store without `passphrase` makes a root key file; a registry
    over another vault has its root wrapped there and asks for none. Raises BadKeysUrl, what FileBackend.open
    raises, and what the vault raises.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "file":
            return FileBackend.open(_folder_of(url), clock=clock, passphrase=passphrase)
        case "openbao+https" | "openbao+http" | "pkcs11" | "aws-kms":
            rest, named = _without_registry(url)
            place = named or folder
            if place is None or not place.is_absolute():
                raise BadKeysUrl(
                    f"It is not said where the registry of these {parts.scheme} keys lies.",
                    hint="Add registry=/absolute/path/of/a/folder to the query of the URL.",
                )
            return open_registry(_vault(parts.scheme, rest), place, clock=clock)
    raise BadKeysUrl(f"{url[:200]!a} names no key back end.", hint=_HINT)


def open_registry(vault: KekVault, folder: Path, *, clock: Clock, max_wraps: int | None = None) -> Registry:
    """The registry in `folder` over `vault`, which is closed with it; a new one where there is none.

    Raises WrongRootKey when the two do not belong together, and what opening a key store or the vault raises.
    `max_wraps` is for tests.
    """
    try:
        place = KeystoreFolder(folder)
        place.prepare()
        store = open_keystore(place, WrappedRoot(vault, place.name))
        try:
            return Registry(store, vault, clock, max_wraps=max_wraps)
        except BaseException:
            store.close()
            raise
    except BaseException:
        vault.close()
        raise


def _vault(scheme: str, url: str) -> KekVault:
    """The vault's client, by a package that only this vault needs."""
    match scheme:
        case "pkcs11":
            from stoker.keys.vaults.pkcs11 import open_pkcs11

            return open_pkcs11(url)
        case "aws-kms":
            from stoker.keys.vaults.aws_kms import open_aws_kms

            return open_aws_kms(url)
    from stoker.keys.vaults.openbao import open_openbao

    return open_openbao(url)


def _folder_of(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if (
        parts.netloc not in ("", "localhost")
        or parts.query
        or parts.fragment
        or not path.is_absolute()
        or "\0" in str(path)
    ):
        raise BadKeysUrl(f"{url[:200]!a} names no key back end.", hint=_HINT)
    return path


def _without_registry(url: str) -> tuple[str, Path | None]:
    """The URL that the vault reads, and the folder that `registry=` in its query named."""
    head, mark, query = url.partition("?")
    kept = [each for each in query.split("&") if not each.startswith("registry=")]
    named = [each.removeprefix("registry=") for each in query.split("&") if each not in kept]
    if not named:
        return url, None
    folder = Path(unquote(named[0]))
    if len(named) > 1 or not folder.is_absolute() or "\0" in str(folder):
        raise BadKeysUrl("`registry` names one folder, by its absolute path.", hint=_HINT)
    rest = "&".join(kept)
    return f"{head}{mark if rest else ''}{rest}", folder
