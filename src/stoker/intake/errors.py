"""The errors of intake. See docs/design/intake.md."""

from __future__ import annotations

from stoker.core.errors import StokerError


class EmptySource(StokerError):
    """Nothing in the folder was taken."""

    exit_code = 70


class UnusableFolder(StokerError):
    """The folder to import is absent, is no folder, or cannot be listed."""

    exit_code = 71


class UnreadableFile(StokerError):
    """A file of the source cannot be opened or is not UTF-8, and the import settings say to refuse that."""

    exit_code = 72


class LinkLeavesSource(StokerError):
    """A symbolic link inside the source points outside it, and the import settings say to refuse that."""

    exit_code = 73


class SourceChanged(StokerError):
    """A file changed, appeared or went away while it was being imported."""

    exit_code = 74


class ReviewClosed(StokerError):
    """The review has already been decided; a decision is made once."""

    exit_code = 75


class BrokenRecord(StokerError):
    """An index or scan report opened correctly but does not follow its format."""

    exit_code = 76


class TooLittleText(StokerError):
    """The source is too small for the recipe: a split would have no sample."""

    exit_code = 77


class WorkerLost(StokerError):
    """A process that helped scanning or tokenising died."""

    exit_code = 78


class ReviewMissing(StokerError):
    """No review of this source was ever requested, or no review has this id."""

    exit_code = 79


class ReviewUndecided(StokerError):
    """The review waits for its decision."""

    exit_code = 80


class ReviewDenied(StokerError):
    """The reviewer refused this use."""

    exit_code = 81


class ReviewRevoked(StokerError):
    """The decision was taken back."""

    exit_code = 82


class ReviewExpired(StokerError):
    """The decision was in force once; its time is over."""

    exit_code = 83


class ReviewStale(StokerError):
    """The review covers other bytes: the source was imported again, or its manifest root differs."""

    exit_code = 84


class OtherPurpose(StokerError):
    """The source may be used, but not for this purpose."""

    exit_code = 85


class SelfReview(StokerError):
    """One identity tried to request and decide, or a person asked for no decider but themself."""

    exit_code = 86


class NotAReviewer(StokerError):
    """The identity that decides does not have the role for it."""

    exit_code = 87


class ReviewTampered(StokerError):
    """A review's row does not fit its own digest or its decider's signature."""

    exit_code = 88


class OtherPolicy(StokerError):
    """The recipe's policy is not the policy that was approved."""

    exit_code = 89


class BrokenSource(StokerError):
    """A file of the source breaks its own format: cut off, malformed, or its parser died of it."""

    exit_code = 220


class SourceTooMuch(StokerError):
    """A file of the source claims or becomes more than the limits of the import allow."""

    exit_code = 221


class MissingColumn(StokerError):
    """A table, or a row of it, lacks a column that the import needs."""

    exit_code = 222


class BadMedia(StokerError):
    """A picture or a clip whose header claims too much, or does not fit what the file holds."""

    exit_code = 223


class LabelMismatch(StokerError):
    """Labels, classes or transcripts do not fit the files they are for."""

    exit_code = 224


class DuplicateName(StokerError):
    """Two things in the source have one name, or names that differ only in case."""

    exit_code = 225


class SourceUnreachable(StokerError):
    """The store that holds the source does not answer, or refuses."""

    exit_code = 226


class UnknownLanguage(StokerError):
    """A recipe keeps a language that the classifier cannot tell."""

    exit_code = 231


class NotAllowed(StokerError):
    """The identity's role, or the leave it was given, does not cover this act."""

    exit_code = 234


class DatasetEnded(StokerError):
    """The dataset's time is over, its key is destroyed, or its objects were removed."""

    exit_code = 235


class NoSuchSplit(StokerError):
    """The dataset has no split of that name."""

    exit_code = 236


class UnusableTarget(StokerError):
    """The folder to export into exists already, cannot be made, or lies where no plaintext may be."""

    exit_code = 237


class RecordFault(StokerError):
    """A record of a source lacks a part or cannot be decoded, and the recipe refuses such records."""

    exit_code = 238


class MediaNotStripped(StokerError):
    """The metadata of a picture or clip cannot be taken out, as its structure is not understood."""

    exit_code = 233


class NoTable(StokerError):
    """The source holds no table with the columns that were named, or more than one kind of it."""

    exit_code = 239


class OtherRequest(StokerError):
    """The decision is on another request than the one that was shown."""

    exit_code = 230


class OutsideTerms(StokerError):
    """A review is in force, but its terms leave out this recipe or this run."""

    exit_code = 232


class GateShut(StokerError):
    """The request cannot be approved: it was not scanned, or too few planted canaries were found."""

    exit_code = 250


class ChangesAsked(StokerError):
    """The reviewer asked for changes: another request has to answer them."""

    exit_code = 251
