"""What can go wrong with keys, each with its own exit code. See docs/design/keys.md, "What can fail"."""

from __future__ import annotations

from stoker.core.errors import StokerError


class WrongPassphrase(StokerError):
    """The passphrase does not open the key store, or may not protect a new one."""

    exit_code = 30


class LooseKeyFile(StokerError):
    """A file with key material can be opened by others, belongs to another user, or is no plain file."""

    exit_code = 31


class KeyUnknown(StokerError):
    """The key store has never held this KEK."""

    exit_code = 32


class KeyDestroyed(StokerError):
    """The KEK was destroyed by two identities; what it sealed cannot be read any more."""

    exit_code = 33


class KeyExpired(StokerError):
    """The KEK is past its expiry and opens nothing."""

    exit_code = 34


class KeyNotActive(StokerError):
    """The KEK's state does not allow what was asked of it."""

    exit_code = 35


class WrongContext(StokerError):
    """A wrapped key does not open: another KEK, another context, or changed bytes."""

    exit_code = 36


class DualControlRefused(StokerError):
    """Destroying a key takes a request by one identity and an approval by another."""

    exit_code = 37


class LeaseExpired(StokerError):
    """The lease ran out before the key was asked for."""

    exit_code = 38


class LeaseRefused(StokerError):
    """The lease was revoked, or it never covered this use of this KEK."""

    exit_code = 39


class KeyUsageExceeded(StokerError):
    """The KEK has wrapped as many keys as it may."""

    exit_code = 40


class KeystoreVersion(StokerError):
    """The key store was written in a format that this Stoker does not know."""

    exit_code = 41


class KeystoreDamaged(StokerError):
    """The key store was changed, cut, swapped or rolled back; the message names the entry."""

    exit_code = 42


class KeystoreMissing(StokerError):
    """A key store was here and its file is gone; a new one in its place would hide the loss."""

    exit_code = 43


class PassphraseNeeded(StokerError):
    """The key store is protected by a passphrase and none was given."""

    exit_code = 44


class SecretWiped(StokerError):
    """A secret was used after it had been wiped: a mistake in the program."""

    exit_code = 45


class AgentLost(StokerError):
    """The key agent's socket closed, or carried something that is no message of its protocol."""

    exit_code = 46


class BadKekRef(StokerError):
    """A text that does not name a KEK."""

    exit_code = 47


class BadKeysUrl(StokerError):
    """`[keys] url` names no key back end that Stoker knows."""

    exit_code = 48


class WrongRootKey(StokerError):
    """The root key file is missing, damaged, or belongs to another key store."""

    exit_code = 49


class VaultRefused(StokerError):
    """The key service answered that this token, role or login may not do it, or is over."""

    exit_code = 242


class VaultUnreachable(StokerError):
    """The key service or token does not answer, or fails; a later try may succeed."""

    exit_code = 243


class InsecureLink(StokerError):
    """The link to a key service does not keep the rules: no TLS, an old one, or a certificate of another."""

    exit_code = 244


class DestroyWindowRefused(StokerError):
    """A destruction's window is too short or too long, is not over yet, or is over already."""

    exit_code = 240


class BadReason(StokerError):
    """A reason that cannot stand in the record: empty, longer than a line, or with control characters."""

    exit_code = 241


class KeyInUse(StokerError):
    """Live runs use the KEK; they are named. Ending it now takes the emergency path."""

    exit_code = 245


class DeathNotProved(StokerError):
    """There is no death to prove: the KEK is not destroyed."""

    exit_code = 246


class RewrapRefused(StokerError):
    """The KEK's keys cannot be moved: there is no active next epoch, or the record of a move is damaged."""

    exit_code = 247


class KeyActRefused(StokerError):
    """The identity may not do this to a key."""

    exit_code = 248
