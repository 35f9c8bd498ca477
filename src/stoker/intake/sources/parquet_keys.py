"""Keys for encrypted Parquet files, from a private file outside the source. docs/design/intake.md, "Parquet".

The file is TOML. `footer_key` is the one key of a file that is encrypted uniformly, `aad_prefix` goes with
it. `[master_keys]` are what a key service would hold: files name them, and their data keys are wrapped as
`KeyToolkit.encryptKeyLocally` of parquet-java does it, with AES-GCM and the key's name as associated data.
"""

from __future__ import annotations

import base64
import binascii
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoker.core.errors import ConfigError, MissingExtra
from stoker.keys.root import open_private

_MAX_BYTES: Final = 65_536
_NONCE: Final = 12
_NAMES: Final = ("footer_key", "aad_prefix", "master_keys")


class ParquetKeys:
    """What opens encrypted files; wiped when the import is over."""

    def __init__(
        self,
        footer_key: bytearray | None = None,
        aad_prefix: bytes | None = None,
        master_keys: Mapping[str, bytearray] | None = None,
    ) -> None:
        self._footer_key = footer_key
        self._aad_prefix = aad_prefix
        self._master_keys = dict(master_keys or {})

    @property
    def given(self) -> bool:
        """Whether there is a key at all."""
        return self._footer_key is not None or bool(self._master_keys)

    @property
    def footer_key(self) -> bytes | None:
        """The one key of uniformly encrypted files, as an export writes them; a copy."""
        return None if self._footer_key is None else bytes(self._footer_key)

    def properties(self) -> Any:
        """What pyarrow wants for decrypting, None without a key. Runs in the worker. Raises MissingExtra."""
        if not self.given:
            return None
        from pyarrow.parquet import encryption

        if self._footer_key is None:
            factory = encryption.CryptoFactory(lambda _: _client(self._master_keys))
            return factory.file_decryption_properties(
                encryption.KmsConnectionConfig(), encryption.DecryptionConfiguration()
            )
        if not hasattr(encryption, "create_decryption_properties"):
            raise MissingExtra(
                "A Parquet footer key needs a newer pyarrow.",
                hint="Install pyarrow 24 or later, or name master keys.",
            )
        prefix = {} if self._aad_prefix is None else {"aad_prefix": self._aad_prefix}
        return encryption.create_decryption_properties(
            bytes(self._footer_key), allow_plaintext_files=True, **prefix
        )

    def wipe(self) -> None:
        """Overwrite every key."""
        for key in (*self._master_keys.values(), *([self._footer_key] if self._footer_key else [])):
            key[:] = bytes(len(key))


def _client(master_keys: Mapping[str, bytearray]) -> Any:
    from pyarrow.parquet import encryption

    class Client(encryption.KmsClient):  # type: ignore[misc]
        """Unwraps with the keys of the file; there is no service behind it."""

        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            raise NotImplementedError

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            """An error raised here would end the process; a wrong key is an error of the file's own tags."""
            wrong = os.urandom(16)
            try:
                data = base64.b64decode(wrapped_key)
                return AESGCM(bytes(master_keys[master_key_identifier])).decrypt(
                    data[:_NONCE], data[_NONCE:], master_key_identifier.encode()
                )
            except (KeyError, ValueError, InvalidTag):
                return wrong

    return Client()


@contextmanager
def read_parquet_keys(path: str, root: Path | None) -> Iterator[ParquetKeys]:
    """The keys in the file at `path`, none when it is empty. `root` is the source's folder, if it has one.

    Raises ConfigError when the file lies in the source or does not follow its form, LooseKeyFile when others
    can open it.
    """
    if not path:
        yield ParquetKeys()
        return
    place = Path(path).expanduser()
    check_apart(path, root)
    descriptor = open_private(place)
    if descriptor is None:
        raise ConfigError(f"parquet_key_file {path} does not exist.", hint="Give the path of the key file.")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        raw = bytearray(file.read(_MAX_BYTES + 1) or b"")
    keys = None
    try:
        keys = _parse(raw, path)
        yield keys
    finally:
        raw[:] = bytes(len(raw))
        if keys is not None:
            keys.wipe()


def check_apart(path: str, root: Path | None) -> None:
    """Raises ConfigError when the key file lies in the source, whatever form that has."""
    if path and root is not None and Path(path).expanduser().resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"parquet_key_file {path} lies inside the source.", hint="Keep keys apart from what they open."
        )


def _parse(raw: bytearray, path: str) -> ParquetKeys:
    def wrong(why: str) -> ConfigError:
        return ConfigError(
            f"parquet_key_file {path}: {why}.",
            hint='Write TOML: footer_key = "hex or base 64", or a table [master_keys] of such values.',
        )

    try:
        table = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        # The error would quote the line, which may be a key.
        raise wrong("it is no TOML") from None
    if len(raw) > _MAX_BYTES or not table or set(table) - set(_NAMES):
        raise wrong(f"expected some of {', '.join(_NAMES)} and nothing else")
    masters = table.get("master_keys", {})
    prefix = table.get("aad_prefix")
    if not isinstance(masters, dict) or not (prefix is None or isinstance(prefix, str)):
        raise wrong("expected a text aad_prefix and a table master_keys")
    footer = _key(table["footer_key"]) if "footer_key" in table else None
    found = {name: _key(value) for name, value in masters.items()}
    if ("footer_key" in table and footer is None) or None in found.values():
        raise wrong("a key is 16, 24 or 32 bytes, in hex or base 64")
    known = {name: key for name, key in found.items() if key is not None}
    return ParquetKeys(footer, None if prefix is None else prefix.encode(), known)


def _key(value: object) -> bytearray | None:
    if not isinstance(value, str):
        return None
    for decode in (bytes.fromhex, lambda text: base64.b64decode(text, validate=True)):
        try:
            key = bytearray(decode(value))
        except (ValueError, binascii.Error):
            continue
        if len(key) in (16, 24, 32):
            return key
    return None
