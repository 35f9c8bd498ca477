"""Which environment variables reach a remote store: where it is, and with which credentials.

See docs/design/store.md, "S3-compatible stores".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_AMAZON: Final = ("AWS_",)
_GOOGLE: Final = ("GOOGLE_",)
_AZURE: Final = ("AZURE_", "AZURITE_")
_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": _AMAZON,
    "s3a": _AMAZON,
    "gs": _GOOGLE,
    "az": _AZURE,
    "azure": _AZURE,
    "adl": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "http": _AMAZON + _GOOGLE + _AZURE,
    "https": _AMAZON + _GOOGLE + _AZURE,
}
_NETWORK: Final = frozenset(
    {"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)


def store_environment(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that a process needs to use the store at `url`; nothing for a folder."""
    prefixes = _PREFIXES.get(urlsplit(url).scheme)
    if prefixes is None:
        return {}
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(prefixes) or name.upper() in _NETWORK
    }
