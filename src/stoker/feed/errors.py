"""What can go wrong between a dataset and its batches. See docs/design/feed.md, "What can fail".

Errors of keys and of stored bytes pass through as they are: they already name the key, shard and chunk.
"""

from __future__ import annotations

from stoker.core.errors import StokerError


class BadWorldSize(StokerError):
    """A world size that does not divide the global batch, so that ranks would get unequal shares."""

    exit_code = 90


class BadRank(StokerError):
    """A rank that is not one of the world's."""

    exit_code = 91


class EmptySplit(StokerError):
    """A split without samples: there is nothing to feed."""

    exit_code = 92


class BadFeedState(StokerError):
    """A saved state that is malformed, or of another dataset, split, seed or order than this feed's."""

    exit_code = 93


class UnknownSplit(StokerError):
    """A dataset has no split of that name."""

    exit_code = 94


class UnknownArtefact(StokerError):
    """A dataset has no artefact of that name."""

    exit_code = 95


class BadFeedSetting(StokerError):
    """A global batch, seed or window that cannot be: the message says what can."""

    exit_code = 96


class FeedStopped(StokerError):
    """A batch was asked of a feed that was closed or has failed."""

    exit_code = 97


class NotSamples(StokerError):
    """The dataset's manifest describes no fixed-length samples, or describes them in two ways."""

    exit_code = 98


class WrongDataset(StokerError):
    """A manifest is well formed, signed and of the right root, but of another dataset than was asked for."""

    exit_code = 99


class BadMixture(StokerError):
    """Weights that no pattern of 1,000 samples can keep exactly, or parts that cannot share a batch."""

    exit_code = 200


class Undecodable(StokerError):
    """A field of a record cannot be decoded, and the feed was told to refuse such records."""

    exit_code = 203


class DecodersLost(StokerError):
    """The processes that decode cannot be had any more."""

    exit_code = 204


class NotDecodable(StokerError):
    """A field that is to be decoded is not there, or holds no encoded files of the kind asked for."""

    exit_code = 205
