"""A run file: what to train, on which dataset, for how long. Loaded by stoker.core.config."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from stoker.spec.kernels import kernel_problems
from stoker.spec.layout import LayoutSpec
from stoker.spec.layout_search import nearest_sentence
from stoker.spec.mixture import MixturePartSpec, weights_problem
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ModerationSpec
from stoker.spec.reading import ReadingSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.terms import Protection
from stoker.spec.vision import VisionSpec
from stoker.spec.watch import WatchSpec


class Precision(enum.StrEnum):
    """The type of matrix products; parameters, gradients and optimizer state stay fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FLOAT8 = "float8"
    """Eight bits with one scale a tensor, in the blocks' linear layers; the rest in bf16."""
    FLOAT8_ROWWISE = "float8_rowwise"
    MXFP8 = "mxfp8"
    """Eight bits with one scale for each 32 elements."""


EIGHT_BITS = frozenset({Precision.FLOAT8, Precision.FLOAT8_ROWWISE, Precision.MXFP8})


class Kernels(enum.StrEnum):
    """What a decoder's blocks and loss are computed by."""

    PLAIN = "plain"
    """torch's operators, one after the other; `layout.compile` may fuse them."""

    FUSED = "fused"
    """Triton's, with the backward pass written out, on a CUDA device. See docs/design/train-gpu.md."""


class Optimizer(enum.StrEnum):
    """What makes an update of a gradient."""

    MUON = "muon"
    """Muon for the blocks' matrices, AdamW for all else."""

    ADAMW = "adamw"
    """AdamW for everything."""


class CheckpointEvery(enum.StrEnum):
    """What says after which steps a checkpoint is saved."""

    STEPS = "steps"
    """`checkpoint_every_steps`."""

    AUTO = "auto"
    """What a checkpoint was measured to cost, and how often runs here fail."""


class Schedule(enum.StrEnum):
    """What the learning rate does after its warm-up, down to its final ratio at the last step."""

    COSINE = "cosine"
    LINEAR = "linear"
    STABLE = "stable"
    """It stays, and falls in a line over the last `decay_share` of the steps."""


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """The step, its optimizer and its schedule. `decay_share` is of the schedule `stable`.

    With `checkpoint_every` "auto" the first checkpoint comes after `checkpoint_every_steps`, and further ones
    as often as costs least.

    The last `keep_checkpoints` stay, and those of every `keep_every_steps`-th step (0: of none). With
    `checkpoint_async` training goes on as soon as a checkpoint's copy is taken. `checkpoint_copy` is the URL
    of a second store, and `copy_every_steps` says of which steps checkpoints are copied there (0: of all).

    `init_from` is a folder in Hugging Face's form that the first weights come from; empty: from the seed.
    `deterministic`: the same bits on every run, by operators that may be slower on a CUDA device.
    """

    steps: int = 1200
    global_batch: int = 16
    seed: int = 0
    learning_rate: float = 1.5e-2
    final_learning_rate_ratio: float = 0.05
    warmup_steps: int = 60
    schedule: Schedule = Schedule.COSINE
    decay_share: float = 0.2
    optimizer: Optimizer = Optimizer.MUON
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    gradient_clip: float = 1.0
    precision: Precision = Precision.BF16
    kernels: Kernels = Kernels.PLAIN
    deterministic: bool = True
    checkpoint_every_steps: int = 120
    checkpoint_every: CheckpointEvery = CheckpointEvery.STEPS
    keep_checkpoints: int = 2
    keep_every_steps: int = 0
    checkpoint_async: bool = False
    checkpoint_copy: str = ""
    copy_every_steps: int = 0
    init_from: str = ""

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the key and its value."""
        for name in ("steps", "global_batch", "checkpoint_every_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1."
        if not 0 <= self.seed < 1 << 63:
            yield f"seed is {self.seed}; it must be 0 to 2^63 - 1."
        if self.warmup_steps < 0:
            yield f"warmup_steps is {self.warmup_steps}; it must be 0 or more."
        every = max(1, self.checkpoint_every_steps)
        if self.checkpoint_every is CheckpointEvery.AUTO and (self.keep_every_steps or self.copy_every_steps):
            yield (
                "checkpoint_every is 'auto', so checkpoints fall on no fixed steps; keep_every_steps and "
                "copy_every_steps must be 0."
            )
        for name in ("keep_every_steps", "copy_every_steps"):
            if getattr(self, name) < 0 or getattr(self, name) % every:
                yield (
                    f"{name} is {getattr(self, name)}; it must be 0 or a multiple of "
                    f"checkpoint_every_steps ({every})."
                )
        if self.checkpoint_copy and ("://" not in self.checkpoint_copy or "@" in self.checkpoint_copy):
            yield (
                "checkpoint_copy must be a store's URL, as s3://bucket/folder, without a name or password; "
                "those come from the environment."
            )
        for name in ("learning_rate", "gradient_clip"):
            if not 0.0 < getattr(self, name) < math.inf:
                yield f"{name} is {getattr(self, name)}; it must be finite and above 0."
        for name in ("final_learning_rate_ratio", "weight_decay", "decay_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                yield f"{name} is {getattr(self, name)}; it must be 0 to 1."
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                yield f"{name} is {getattr(self, name)}; it must be at least 0 and below 1."


class Device(enum.StrEnum):
    """Where a rank computes."""

    AUTO = "auto"
    """On CUDA where each rank can have a device of its own and the run can use it, on the CPU otherwise."""

    CPU = "cpu"
    CUDA = "cuda"


class IsolationPolicy(enum.StrEnum):
    """Whether ranks run in a network of their own, where only their peers are."""

    OFF = "off"
    WHEN_POSSIBLE = "when_possible"
    REQUIRED = "required"


class IsolationMeans(enum.StrEnum):
    """What closes the network of a run's processes."""

    AUTO = "auto"
    NAMESPACE = "namespace"
    BUBBLEWRAP = "bubblewrap"


class RankOutput(enum.StrEnum):
    """What becomes of what ranks print."""

    SIEVED = "sieved"
    """Only what names a place in a program is kept: ranks hold plaintext, and libraries quote it."""

    WHOLE = "whole"
    """All of it is kept in plain text: for looking for a fault with data that needs no protection."""


@dataclass(frozen=True, slots=True)
class LinksSpec:
    """How links are protected that Stoker cannot look into; absent: what it sees for itself.

    `ranks`: between the ranks of the run. `store`: to the store. See docs/design/fleet.md, "Links".
    """

    ranks: Protection | None = None
    store: Protection | None = None


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Where and how the ranks run. `isolation` required: no key is leased to ranks that reach a network.

    Ranks are spread evenly over `nodes`; one of `spare_nodes` takes the place of one that is lost, and where
    none is left the run goes on with as many ranks as fit (`shrink`) until the node is back. `standby`: once
    an attempt has trained for `standby_after_s`, the next one's processes are started ahead, so that a
    restart waits for no import; they take the memory of an interpreter with torch for each rank.

    Ranks hang when none gets on within `hang_after_s`; sooner where steps are usually faster, but never
    before `hang_at_least_s`. Without its supervisor a lease lasts `lease_s`; a way out of the network is
    looked for every `isolation_probe_every_s`, and one that is found ends the lease at once. On a CUDA device
    batches are read into page-locked memory, unless `pin_batches` is false.

    In a job of several nodes ranks reach one another by `interface`; empty: by the one that has the address
    of the node's name.

    A run that failed `failures_in_row` times within `failures_within_s` without getting further is over, and
    goes on only when a person forgives it.
    """

    ranks: int = 2
    nodes: int = 1
    spare_nodes: int = 0
    shrink: bool = True
    interface: str = ""
    device: Device = Device.AUTO
    pin_batches: bool = True
    threads_per_rank: int = 1
    restarts: int = 5
    failures_in_row: int = 10
    failures_within_s: float = 86_400.0
    standby: bool = True
    standby_after_s: float = 10.0
    hang_after_s: float = 60.0
    hang_at_least_s: float = 10.0
    start_within_s: float = 180.0
    isolation: IsolationPolicy = IsolationPolicy.WHEN_POSSIBLE
    isolate_by: IsolationMeans = IsolationMeans.AUTO
    isolation_probe_every_s: float = 10.0
    lease_s: float = 300.0
    rank_output: RankOutput = RankOutput.SIEVED
    links: LinksSpec = field(default_factory=LinksSpec)

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the key and its value."""
        for name in ("ranks", "threads_per_rank"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1."
        if self.nodes < 1 or (self.ranks >= 1 and self.ranks % self.nodes):
            yield f"nodes is {self.nodes} and ranks {self.ranks}; nodes must be at least 1 and divide ranks."
        if self.spare_nodes < 0:
            yield f"spare_nodes is {self.spare_nodes}; it must be 0 or more."
        if not all(each.isalnum() or each in "._-:@" for each in self.interface) or len(self.interface) > 15:
            yield f"interface is {self.interface[:40]!a}; it must be the name of a network interface."
        if self.restarts < 0:
            yield f"restarts is {self.restarts}; it must be 0 or more."
        if self.failures_in_row < 1:
            yield f"failures_in_row is {self.failures_in_row}; it must be at least 1."
        if not 60.0 <= self.failures_within_s <= 31_536_000.0:
            yield f"failures_within_s is {self.failures_within_s}; it must be 60 s to a year."
        for name in ("hang_after_s", "hang_at_least_s", "start_within_s"):
            if not 1.0 <= getattr(self, name) <= 86_400.0:
                yield f"{name} is {getattr(self, name)}; it must be 1 to 86400 seconds."
        if not 0.0 <= self.standby_after_s <= 86_400.0:
            yield f"standby_after_s is {self.standby_after_s}; it must be 0 to 86400 seconds."
        if not 0.1 <= self.isolation_probe_every_s <= 3_600.0:
            yield (
                f"isolation_probe_every_s is {self.isolation_probe_every_s}; it must be 0.1 to 3600 seconds."
            )
        if not 2.0 <= self.lease_s <= 3_600.0:
            yield f"lease_s is {self.lease_s}; it must be 2 to 3600 seconds."


@dataclass(frozen=True, slots=True)
class EvaluateSpec:
    """What is measured at the end of a run.

    `exposure_candidates`: how many texts the canary of each dataset is compared with, 0 for none. A model
    whose exposure is above `exposure_limit_bits` knows its training data by heart and is not to be released.
    """

    heldout: bool = True
    baselines: bool = True
    exposure_candidates: int = 512
    exposure_limit_bits: float = 20.0
    sample_tokens: int = 96
    sample_prompt: str = "def "

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the key and its value."""
        if self.exposure_candidates and not 2 <= self.exposure_candidates <= 1_000_000:
            yield f"exposure_candidates is {self.exposure_candidates}; it must be 0 or 2 to 1000000."
        if not 0.0 < self.exposure_limit_bits <= 128.0:
            yield f"exposure_limit_bits is {self.exposure_limit_bits}; it must be above 0, at most 128."


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A whole run file. `dataset` is the name of a prepared dataset; or `mixture` names several.

    It trains a decoder, unless it has a section of another family: `vision`, `speech` or `moderation`.
    `configuration` names a model of `stoker.spec.configurations`; what its section says besides counts more.
    """

    dataset: str = ""
    mixture: tuple[MixturePartSpec, ...] = ()
    name: str = "run"
    purpose: str = "research"
    configuration: str = ""
    model: ModelSpec = field(default_factory=ModelSpec)
    vision: VisionSpec | None = None
    speech: SpeechSpec | None = None
    moderation: ModerationSpec | None = None
    reading: ReadingSpec = field(default_factory=ReadingSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    launch: LaunchSpec = field(default_factory=LaunchSpec)
    layout: LayoutSpec = field(default_factory=LayoutSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    watch: WatchSpec = field(default_factory=WatchSpec)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets that the run reads, in order; the first is the one its figures are compared on."""
        return tuple(part.dataset for part in self.mixture) or (self.dataset,)

    @property
    def trained(self) -> ModelSpec | VisionSpec | SpeechSpec | ModerationSpec:
        """What is trained, of whichever family."""
        return self.vision or self.speech or self.moderation or self.model

    def problems(self) -> Iterator[str]:
        """One sentence for each rule between the sections that is broken."""
        yield from self._mixture_problems()
        yield from self._family_problems()
        batch, ranks = self.train.global_batch, self.launch.ranks
        if ranks < 1 or batch < 1:
            return  # told by their own sections
        if self.train.precision in EIGHT_BITS and self.layout.tp > 1:
            yield (
                f"train.precision is '{self.train.precision}' and layout.tp {self.layout.tp}; eight bits "
                "need whole matrices, so layout.tp must be 1 or train.precision bf16."
            )
        if self.train.kernels is Kernels.FUSED:
            model = self.model if self.trained is self.model else None
            yield from kernel_problems(model, self.layout, self.train.precision.value)
        if self.layout == LayoutSpec() and batch % ranks:
            fits = ", ".join(str(each) for each in range(1, batch + 1) if batch % each == 0)
            yield f"train.global_batch is {batch} and launch.ranks {ranks}; ranks must divide it: {fits}."
        elif not any(True for _ in (*self.layout.problems(), *self.trained.problems())):
            known = (self.trained, None, None, batch, ranks)  # the dataset says the rest, before the launch
            problems = list(self.layout.problems(*known))
            if problems:
                yield f"layout: {' '.join(problems)} {nearest_sentence(self.layout, *known)}"

    def _family_problems(self) -> Iterator[str]:
        named = [name for name in ("vision", "speech", "moderation") if getattr(self, name) is not None]
        if named and self.model != ModelSpec():
            named.insert(0, "model")
        if len(named) > 1:
            sections = ", ".join(f"[{name}]" for name in named)
            yield f"{sections} are in one run file; a run trains one model, so keep one of them."
        if self.trained is not self.model and self.mixture:
            yield f"[[mixture]] is of text, and [{named[-1]}] learns from the records of one dataset."

    def _mixture_problems(self) -> Iterator[str]:
        if not self.mixture:
            if not self.dataset:
                yield "dataset is required and missing; name a prepared dataset, or several as [[mixture]]."
            return
        if self.dataset:
            yield f"dataset is {self.dataset!r} and [[mixture]] names datasets too; give one of the two."
        names = self.datasets
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield f"mixture names {', '.join(twice)} more than once; give it the sum of the weights."
        problem = weights_problem([part.weight for part in self.mixture])
        if problem:
            yield problem
