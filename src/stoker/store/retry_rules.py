"""What a failed request of obstore means: ours to report, or worth another try. See docs/design/store.md.

The library tells most failures apart only by their text; what its text looks like is held by tests against
servers (tests/store/test_remote_faults.py, test_remote_servers.py).
"""

from __future__ import annotations

import re
from typing import Final

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)

from stoker.core.errors import StokerError
from stoker.store.errors import AccessRefused, StoreFailing, StoreUnreachable
from stoker.store.local import object_exists, object_missing

HINT: Final = "Check the URL, the network and the credentials in the environment, then run it again."
_CREDENTIALS_HINT: Final = (
    "Check the credentials in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
    "AWS_SESSION_TOKEN), when they expire, and what they may do with this bucket."
)
_LATER_HINT: Final = "The store or the network answers badly now. Run it again later; nothing was lost."

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_QUERY: Final = re.compile(r"(https?://[^\s?]*)\?\S*")
_USER: Final = re.compile(r"(https?://)[^\s/@]*@")

_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 529})
_CONFLICT_CODES: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})
"""S3's 409: two writers met and neither is known to have won. Azure's 409 says that the name is taken."""
_NO_CREDENTIALS: Final = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_CANNOT_HELP: Final = ("builder error", "invalid peer certificate", "Received redirect")


def error_of(error: Exception, key: str, place: str) -> StokerError:
    """Our error for one of the library's. StoreFailing, and nothing else, is worth another try."""
    text = str(error)
    status, code = _status(text), _code(text)
    if any(address in text for address in _NO_CREDENTIALS):
        return AccessRefused(
            f"{key} in {place}: no credentials are in the environment, and this machine has no role that "
            "would give some.",
            hint=_CREDENTIALS_HINT,
        )
    if isinstance(error, (AlreadyExistsError, PreconditionError)):
        if code in _CONFLICT_CODES:
            return StoreFailing(
                f"{key} in {place}: another request was in the way ({code}).", hint=_LATER_HINT
            )
        return object_exists(key, place)
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return _no_bucket(place, code)
    if isinstance(error, FileNotFoundError):
        return object_missing(key, place)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in (401, 403):
        number = status or (403 if isinstance(error, PermissionDeniedError) else 401)
        named = f", {code}" if code else ""
        return AccessRefused(
            f"{key} in {place}: the store refused access ({number}{named}).", hint=_CREDENTIALS_HINT
        )
    said = first_line(error)
    if _never_again(error, text, status):
        return StoreUnreachable(f"{key} in {place}: {said}", hint=HINT)
    return StoreFailing(f"{key} in {place}: {said}", hint=_LATER_HINT)


def is_about_range(error: Exception) -> bool:
    """Does the store say that the range is not in the object, or give other bytes than it?"""
    text = str(error)
    status = _status(text)
    if status is not None:
        return status == 416
    return "Requested " in text or "Invalid range" in text or "UnexpectedRange" in text


def no_bucket_for(error: Exception, place: str) -> StokerError | None:
    """A create or a list that finds nothing means that the bucket itself is not there."""
    return _no_bucket(place, _code(str(error)) or "404") if isinstance(error, FileNotFoundError) else None


def timed_out(key: str, place: str, what: str) -> StoreFailing:
    """The error for an answer that does not come, or comes too slowly."""
    return StoreFailing(f"{key} in {place}: {what}.", hint=_LATER_HINT)


def first_line(error: Exception) -> str:
    """What the library says, in one line, without what a URL may hold of signatures and passwords."""
    lines = str(error).strip().splitlines()
    said = lines[0].partition("<?xml")[0].rstrip(": ") if lines else type(error).__name__
    code = _code(str(error))
    return _USER.sub(r"\1", _QUERY.sub(r"\1", said))[:300] + (f" ({code})" if code else "")


def _never_again(error: Exception, text: str, status: int | None) -> bool:
    if isinstance(
        error, (InvalidPathError, NotSupportedError, NotImplementedError, UnknownConfigurationKeyError)
    ):
        return True
    if status is not None:
        return status not in _AGAIN
    return not isinstance(error, (BaseError, OSError)) or any(words in text for words in _CANNOT_HELP)


def _no_bucket(place: str, code: str) -> StoreUnreachable:
    return StoreUnreachable(
        f"{place} is not there ({code}): the bucket does not exist, or is of another account or region.",
        hint="Make the bucket first, or correct [store] url. Stoker makes none.",
    )


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1]) if found else None


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found[1] if found else ""
