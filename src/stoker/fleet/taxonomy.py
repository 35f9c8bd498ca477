"""What can end an attempt, by kind and component: the one table of exit codes, signals and texts.

The machine asks it what another attempt may mend, attribution asks it what a sign means. The kinds and the
reasons for every group are in docs/design/attribution.md.
"""

from __future__ import annotations

import enum
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final


class FailureKind(enum.StrEnum):
    """Who has to do something about a failure."""

    USER_ERROR = "user_error"
    """The run file, the model or a permission: every further attempt meets the same."""

    DATA = "data"
    """Bytes that are damaged, swapped or of no use: of the dataset or of a checkpoint."""

    SYSTEM_SOFTWARE = "system_software"
    HARDWARE = "hardware"
    NETWORK = "network"
    PREEMPTION = "preemption"
    UNKNOWN = "unknown"


class Component(enum.StrEnum):
    """What of it; hardware by part."""

    NONE = ""
    RUN_FILE = "run_file"
    MODEL = "model"
    PERMISSION = "permission"
    DATASET = "dataset"
    CHECKPOINT = "checkpoint"
    KEYS = "keys"
    STORE = "store"
    LEDGER = "ledger"
    PROCESS = "process"
    AGENT = "agent"
    SUPERVISOR = "supervisor"
    LIBRARY = "library"
    DRIVER = "driver"
    SCHEDULER = "scheduler"
    FILE_SYSTEM = "file_system"
    NODE = "node"
    CPU = "cpu"
    HOST_MEMORY = "host_memory"
    DISK = "disk"
    GPU = "gpu"
    GPU_MEMORY = "gpu_memory"
    NVLINK = "nvlink"
    PCIE = "pcie"
    POWER = "power"
    NIC = "nic"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a sign says about the failure; `confidence` 0 to 1 is how far it may be believed by itself."""

    kind: FailureKind
    component: Component
    confidence: float


@dataclass(frozen=True, slots=True)
class CodeRule:
    """What an error of Stoker's means; `again`: another attempt may go well."""

    exit_code: int
    error_id: str
    meaning: Meaning
    again: bool


_K, _C = FailureKind, Component
_SURE: Final = 0.9

_GROUPS: Final = (
    # A person has to change something; another attempt meets the same.
    (
        _K.USER_ERROR,
        _C.RUN_FILE,
        _SURE,
        False,
        "10 bad-name, 11 config-error, 13 bad-home, 17 missing-extra, 54 bad-object-key, "
        "55 object-too-large, 65 bad-label, 69 bad-record, 90 bad-world-size, 92 empty-split, "
        "94 unknown-split, 95 unknown-artefact, 96 bad-feed-setting, 98 not-samples, "
        "100 invalid-model, 101 invalid-vision, "
        "102 invalid-speech, 103 invalid-moderation, 104 unknown-configuration, 105 invalid-layout, "
        "110 unfit-batch, 115 checkpoint-unfit, 122 bad-tokenizer, 123 nothing-to-evaluate, "
        "124 precision-unsupported, 125 device-missing, 190 bad-weights, 191 weights-unfit, "
        "192 form-unknown, 200 bad-mixture, 205 not-decodable, 22 unknown-dataset, 24 unknown-run, "
        "48 bad-keys-url, 132 not-resumable",
    ),
    (_K.USER_ERROR, _C.GPU_MEMORY, _SURE, False, "194 out-of-memory"),
    (
        _K.USER_ERROR,
        _C.MODEL,
        0.7,
        False,
        "119 non-finite-state, 121 non-finite-loss, 129 loss-spike",
    ),
    (
        _K.USER_ERROR,
        _C.PERMISSION,
        _SURE,
        False,
        "20 unknown-identity, 21 unknown-source, 23 unknown-review, 37 dual-control-refused, "
        "39 lease-refused, 79 review-missing, 80 review-undecided, 81 review-denied, 82 review-revoked, "
        "83 review-expired, 84 review-stale, 85 other-purpose, 86 self-review, 87 not-areviewer, "
        "88 review-tampered, 89 other-policy, 133 dataset-gone, 134 isolation-refused, 147 isolation-lost, "
        "148 link-too-weak, 193 release-refused, 211 access-refused, 230 other-request, 232 outside-terms, "
        "234 not-allowed, 235 dataset-ended, 236 no-such-split, 240 destroy-window-refused, 241 bad-reason, "
        "242 vault-refused, 244 insecure-link, 245 key-in-use, 248 key-act-refused, 250 gate-shut, "
        "251 changes-asked, 254 permission-refused, 255 token-refused, 75 review-closed",
    ),
    (
        _K.USER_ERROR,
        _C.KEYS,
        _SURE,
        False,
        "30 wrong-passphrase, 31 loose-key-file, 32 key-unknown, 33 key-destroyed, 34 key-expired, "
        "35 key-not-active, 40 key-usage-exceeded, 41 keystore-version, 43 keystore-missing, "
        "44 passphrase-needed, 47 bad-kek-ref, 49 wrong-root-key, 246 death-not-proved, 247 rewrap-refused",
    ),
    # Bytes that are not what they should be.
    (
        _K.DATA,
        _C.DATASET,
        _SURE,
        False,
        "36 wrong-context, 51 object-missing, 56 not-sealed, 57 unknown-version, 58 truncated-stream, "
        "59 corrupt-stream, 60 swapped-stream, 61 commitment-mismatch, 62 corrupt-manifest, 63 rolled-back, "
        "64 salt-reused, 66 out-of-range, 67 corrupt-object, 68 corrupt-shard, 99 wrong-dataset, "
        "203 undecodable, 218 object-differs, 70 empty-source, 71 unusable-folder, 72 unreadable-file, "
        "73 link-leaves-source, 74 source-changed, 76 broken-record, 77 too-little-text, 220 broken-source, "
        "221 source-too-much, 222 missing-column, 223 bad-media, 224 label-mismatch, 225 duplicate-name, "
        "229 broken-plan, 231 unknown-language, 233 media-not-stripped, 237 unusable-target, "
        "238 record-fault, 239 no-table",
    ),
    (
        _K.DATA,
        _C.CHECKPOINT,
        _SURE,
        False,
        "93 bad-feed-state, 113 bad-commit-log, 114 bad-checkpoint-part, 126 checkpoint-lost",
    ),
    (_K.DATA, _C.KEYS, _SURE, False, "14 bad-signature, 42 keystore-damaged"),
    (
        _K.DATA,
        _C.LEDGER,
        _SURE,
        False,
        "25 ledger-version, 26 bad-ledger-key, 27 ledger-unusable, 28 ledger-refused, 29 ledger-rolled-back",
    ),
    # Our own programs, the machine's, and what a library did.
    (_K.SYSTEM_SOFTWARE, _C.FILE_SYSTEM, _SURE, False, "12 disk-full"),
    (
        _K.SYSTEM_SOFTWARE,
        _C.PROCESS,
        _SURE,
        False,
        "15 bad-event, 45 secret-wiped, 50 object-exists, 53 unsafe-store, 91 bad-rank, 97 feed-stopped, "
        "111 bad-job, 112 fenced, 135 agent-failed, 136 bad-run-folder, 214 bad-peer-secret, "
        "215 cannot-serve-peers, 228 unusable-executor",
    ),
    (_K.SYSTEM_SOFTWARE, _C.PROCESS, _SURE, True, "16 busy, 38 lease-expired"),
    (_K.SYSTEM_SOFTWARE, _C.PROCESS, 0.7, True, "78 worker-lost, 204 decoders-lost, 227 task-failed"),
    # What happened to this rank because of another, or a wrapping of something that is not ours: symptoms.
    (_K.SYSTEM_SOFTWARE, _C.AGENT, 0.3, True, "46 agent-lost, 117 telemetry-lost"),
    (_K.SYSTEM_SOFTWARE, _C.CHECKPOINT, 0.3, True, "116 checkpoint-failed"),
    (_K.NETWORK, _C.LINK, 0.2, True, "118 peer-lost"),
    (_K.UNKNOWN, _C.PROCESS, 0.1, False, "130 restart-budget-spent, 131 rank-failed, 146 crash-loop"),
    # Over a network.
    (_K.NETWORK, _C.STORE, 0.8, True, "52 store-unreachable, 210 store-failing, 226 source-unreachable"),
    (_K.NETWORK, _C.KEYS, 0.8, True, "243 vault-unreachable"),
    (_K.NETWORK, _C.NODE, 0.6, True, "216 peer-fault"),
)


def _rules() -> Iterator[CodeRule]:
    for kind, component, confidence, again, members in _GROUPS:
        for member in members.split(", "):
            code, error_id = member.split()
            yield CodeRule(int(code), error_id, Meaning(kind, component, confidence), again)


CODES: Final[Mapping[int, CodeRule]] = {rule.exit_code: rule for rule in _rules()}
"""Every error that a rank or the supervisor of a run can end with, by its exit code."""

BY_ID: Final[Mapping[str, CodeRule]] = {rule.error_id: rule for rule in CODES.values()}

RETRIED: Final = frozenset(rule.exit_code for rule in CODES.values() if rule.again)
"""Known errors after which another attempt may go well; every other known error ends the run."""

SYMPTOMS: Final = frozenset({"peer-lost", "telemetry-lost", "agent-lost", "checkpoint-failed"})
"""Errors by which a rank tells what another's failure did to it."""

SYMPTOM_CODES: Final = frozenset(BY_ID[each].exit_code for each in SYMPTOMS)

SIGNALS: Final[Mapping[int, Meaning]] = {
    signal.SIGKILL: Meaning(_K.SYSTEM_SOFTWARE, _C.PROCESS, 0.5),
    signal.SIGTERM: Meaning(_K.SYSTEM_SOFTWARE, _C.PROCESS, 0.5),
    signal.SIGINT: Meaning(_K.SYSTEM_SOFTWARE, _C.PROCESS, 0.5),
    signal.SIGHUP: Meaning(_K.SYSTEM_SOFTWARE, _C.PROCESS, 0.5),
    signal.SIGBUS: Meaning(_K.SYSTEM_SOFTWARE, _C.FILE_SYSTEM, 0.4),
    signal.SIGSEGV: Meaning(_K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.5),
    signal.SIGABRT: Meaning(_K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.5),
    signal.SIGFPE: Meaning(_K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.5),
    signal.SIGILL: Meaning(_K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.5),
    signal.SIGSYS: Meaning(_K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.5),
    signal.SIGXCPU: Meaning(_K.USER_ERROR, _C.RUN_FILE, 0.4),
    signal.SIGXFSZ: Meaning(_K.SYSTEM_SOFTWARE, _C.FILE_SYSTEM, 0.6),
}
"""A signal that nothing else explains: something outside of the rank ended it, or a library broke."""

HANG: Final = Meaning(_K.UNKNOWN, _C.PROCESS, 0.3)
"""A rank that got nowhere, when nothing else says why."""

STOPPED: Final = Meaning(_K.SYSTEM_SOFTWARE, _C.PROCESS, 0.8)
"""A rank that hung stood still by a signal: somebody outside, or a debugger, stopped it."""

LOOPBACK_GONE: Final = Meaning(_K.NETWORK, _C.LINK, 0.9)
"""The probe of the ranks' network, made while they ran, found that nothing is delivered there any more."""

ALL_WAIT: Final = Meaning(_K.NETWORK, _C.LINK, 0.5)
"""All ranks that hung had entered a collective, so what lies between them did not deliver."""

AGENT_GONE: Final = Meaning(_K.SYSTEM_SOFTWARE, _C.AGENT, 0.5)
"""Nobody told of the ranks any more, and no rank ended before."""

SUPERVISOR_GONE: Final = Meaning(_K.SYSTEM_SOFTWARE, _C.SUPERVISOR, 0.7)
"""An attempt without an end: who would have told it was gone, and the attempt with it."""

MACHINE_GONE: Final = Meaning(_K.HARDWARE, _C.NODE, 0.5)
"""The same, and the node's monotonic clock began anew."""

UNEXPLAINED: Final = Meaning(_K.UNKNOWN, _C.NONE, 0.1)


class Source(enum.StrEnum):
    """Where a line that speaks of a failure was found."""

    EVENT = "event"
    KERNEL = "kernel"
    CHECK = "check"
    SCHEDULER = "scheduler"
    OUTPUT = "output"
    """What a rank said last: its error's message and the lines that were kept of its output."""


@dataclass(frozen=True, slots=True)
class TextRule:
    """What a line of `source` that matches `pattern` means."""

    source: Source
    pattern: re.Pattern[str]
    meaning: Meaning
