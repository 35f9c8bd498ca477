"""What can go wrong with bytes at rest. See docs/design/store.md."""

from __future__ import annotations

from stoker.core.errors import StokerError


class ObjectExists(StokerError):
    """A conditional create found the object already there."""

    exit_code = 50


class ObjectMissing(StokerError):
    """An object that was named is not in the store."""

    exit_code = 51


class StoreUnreachable(StokerError):
    """The store cannot be opened, or a request to it failed."""

    exit_code = 52


class StoreFailing(StoreUnreachable):
    """A store answers late, badly or not at all, and went on so through all tries."""

    exit_code = 210


class AccessRefused(StoreUnreachable):
    """A store refuses the credentials, or there are none."""

    exit_code = 211


class UnsafeStore(StokerError):
    """The store lets a second create replace the first, so nothing in it could be relied upon."""

    exit_code = 53


class BadObjectKey(StokerError):
    """The name of an object is a path that leaves the store, or holds characters that names may not hold."""

    exit_code = 54


class ObjectTooLarge(StokerError):
    """An object is longer than the caller allows, or than its format allows."""

    exit_code = 55


class NotSealed(StokerError):
    """The bytes are not a sealed stream."""

    exit_code = 56


class UnknownVersion(StokerError):
    """A format version, suite or flag that this Stoker does not know."""

    exit_code = 57


class TruncatedStream(StokerError):
    """A sealed stream, or another stored format, ends too early or is longer than recorded."""

    exit_code = 58


class CorruptStream(StokerError):
    """A header or a chunk of a sealed stream was changed."""

    exit_code = 59


class SwappedStream(StokerError):
    """A sealed stream is valid, but it is another one than the one that was asked for."""

    exit_code = 60


class CommitmentMismatch(StokerError):
    """A header was changed, or it was made for another key: its commitment does not hold."""

    exit_code = 61


class CorruptManifest(StokerError):
    """A manifest page, superblock or signature was changed or does not follow its format."""

    exit_code = 62


class RolledBack(StokerError):
    """A manifest is well formed and signed, but its root is not the recorded one."""

    exit_code = 63


class SaltReused(StokerError):
    """Two shards have the same header: they would have been sealed under the same key."""

    exit_code = 64


class BadLabel(StokerError):
    """A label, key reference or size does not fit into the sealed format."""

    exit_code = 65


class OutOfRange(StokerError):
    """A read reaches past the end of a stream, a shard or a manifest."""

    exit_code = 66


class CorruptObject(StokerError):
    """An object's digest is not the recorded one."""

    exit_code = 67


class CorruptShard(StokerError):
    """A shard of records was opened and verified, but a count or an offset in it contradicts its format."""

    exit_code = 68


class BadRecord(StokerError):
    """A record that is to be written does not fit its schema."""

    exit_code = 69


class ObjectDiffers(StokerError):
    """Two writers made different bytes under one name, where the same was to come out."""

    exit_code = 218


class BadPeerSecret(StokerError):
    """What was handed over as the secret of a run's nodes is not 32 bytes."""

    exit_code = 214


class CannotServePeers(StokerError):
    """The address on which a node should serve the run's other nodes cannot be listened on."""

    exit_code = 215
