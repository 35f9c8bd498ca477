"""Two FSDP ranks of a whole run, beside torchrun with a plain FSDP2 loop of the same model and data, on CPU.

Run `python bench/ranks.py`, or with `--json` for one object. See docs/design/train-model.md, "Measured".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from measuring import plain_ranks
from measuring.command import Size, run
from measuring.figures import (
    Figure,
    Measured,
    at_least,
    median_of,
    not_measured,
    rate_of,
    ratio_of,
    versions_of,
)
from measuring.house import NAME, PURPOSE, RESEARCHER, BenchHouse
from measuring.texts import copy_sources
from stoker.core.progress import SILENT
from stoker.feed.dataset import Dataset
from stoker.feed.feed import Feed
from stoker.fleet.launch import start_run
from stoker.fleet.summary import read_run
from stoker.intake.review_request import review_digest
from stoker.keys.partition import BackendKeySource
from stoker.ledger.records import DatasetRecord, RunOutcome
from stoker.spec.model import ModelSpec
from stoker.spec.recipe import RecipeSpec
from stoker.spec.run import EvaluateSpec, LaunchSpec, Optimizer, RunSpec, TrainSpec

RANKS: Final = 2
GLOBAL_BATCH: Final = 16
SEQUENCE_TOKENS: Final = 256
RECIPE: Final = RecipeSpec(
    vocabulary=1024, sequence_tokens=SEQUENCE_TOKENS, chunk_log2=16, heldout_fraction=0.05
)
MODEL: Final = ModelSpec(
    layers=4, width=128, heads=2, kv_heads=1, ffn_width=384, tied_embeddings=False, qk_norm=False
)
METHOD: Final = (
    "A decoder of a million parameters, 16 samples of 256 tokens a step, bf16 products, AdamW, two ranks of "
    "one thread each. ours: a run as `stoker train` makes it, with supervisor, key agent, sealed data, "
    "heartbeats, guard and events; the time from one step's event to the next. torchrun: the same batches "
    "from memory, FSDP2 around each block and the rest, fused AdamW, clipping; the time of a step as rank 0 "
    "sees it; once with the engine's modules (same) and once with torch's own operations (plain). Each round "
    "starts both anew, in turn, the first going second in the next round; the first fifth of the steps "
    "does not count; a round's sample is the median of the rest. No process stands by for a restart and "
    "nothing is saved meanwhile. Medians and quartiles of the rounds; ratios round by round."
)


class Bench:
    """A prepared dataset, and the two ways of training on it."""

    def __init__(self, root: Path, house: BenchHouse, steps: int) -> None:
        self._house, self._steps = house, steps
        house.bring(copy_sources(root / "texts", 1))
        house.approve(house.scan())
        record = house.prepare(RECIPE).record
        self._train = TrainSpec(
            steps=steps,
            global_batch=GLOBAL_BATCH,
            warmup_steps=2,
            learning_rate=1e-3,
            optimizer=Optimizer.ADAMW,
            checkpoint_every_steps=steps,
        )
        tokens = root / "tokens.npy"
        self._write_tokens(record, tokens)
        self._job = root / "job.json"
        self._asked = {
            "tokens": str(tokens),
            "model": {name: value for name, value in asdict(MODEL).items() if value is not None},
            "vocabulary": RECIPE.vocabulary,
            "train": asdict(self._train),
        }

    def _write_tokens(self, record: DatasetRecord, path: Path) -> None:
        """The batches that the run will see, for the plain loop."""
        house = self._house
        dataset = Dataset.open(
            house.store,
            None,
            name=record.name,
            version=record.version,
            root=record.root,
            public_key=house.backend.signer("manifest").public_key,
            keys=BackendKeySource(house.backend),
            review_digest=review_digest(house.ledger.catalogue.review(record.review)),
        )
        with Feed(dataset.tokens(), global_batch=GLOBAL_BATCH, seed=self._train.seed) as feed:
            np.save(path, np.stack([np.array(feed.next_array()) for _ in range(self._steps)]))

    def ours(self) -> dict[str, float]:
        """Seconds of a step of a run."""
        house = self._house
        spec = RunSpec(
            dataset=NAME,
            purpose=PURPOSE,
            model=MODEL,
            train=self._train,
            launch=LaunchSpec(ranks=RANKS, threads_per_rank=1, standby=False),
            evaluate=EvaluateSpec(heldout=False, baselines=False, sample_tokens=0),
        )
        summary = start_run(
            spec,
            home=house.home,
            ledger=house.ledger,
            backend=house.backend,
            store_url=house.store_url,
            actor=RESEARCHER,
            progress=SILENT,
            clock=house.clock,
        )
        if summary.outcome is not RunOutcome.FINISHED:
            raise SystemExit(f"the run did not finish: {summary.error}")
        steps = read_run(house.home, house.ledger, summary.run).steps
        return {"ours": self._usual([after.at_s - before.at_s for before, after in pairwise(steps)])}

    def torchrun(self, models: list[str]) -> dict[str, float]:
        """Seconds of a step of the plain loop by model; none where it cannot be closed off from networks."""
        self._job.write_text(json.dumps({**self._asked, "models": models}))
        command = [sys.executable, plain_ranks.__file__, "launch", str(RANKS), str(self._job)]
        environment = {**os.environ, "TMPDIR": str(self._job.parent)}  # torchrun leaves a folder there
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            return {}
        if done.returncode:
            raise SystemExit(f"torchrun failed: {done.stderr[-2000:]}")
        return {name: self._usual(taken_s) for name, taken_s in json.loads(done.stdout).items()}

    def _usual(self, taken_s: list[float]) -> float:
        return median(taken_s[self._steps // 5 :])


def measure(steps: int, rounds: int) -> Measured:
    """Tokens a second of each, and the ratio of ours to the others'."""
    samples: dict[str, list[float]] = {"ours": [], "same": [], "plain": []}
    with tempfile.TemporaryDirectory() as root, BenchHouse(Path(root) / "home") as house:
        bench = Bench(Path(root), house, steps)
        for turn in range(rounds):
            models = ["same", "plain"] if turn % 2 else ["plain", "same"]
            ways: list[Callable[[], dict[str, float]]] = [bench.ours, partial(bench.torchrun, models)]
            for way in ways[:: -1 if turn % 2 else 1]:
                for name, step_s in way().items():
                    samples[name].append(step_s)
    tokens = GLOBAL_BATCH * SEQUENCE_TOKENS
    figures: dict[str, Figure] = {
        "ours_step_ms": median_of([1e3 * taken_s for taken_s in samples["ours"]], "ms"),
        "ours_rate": rate_of(tokens, samples["ours"], "tokens/s"),
    }
    for name, goal in (("same", at_least(1.0)), ("plain", at_least(1.0))):
        if samples[name]:
            figures[f"torchrun_{name}_step_ms"] = median_of(
                [1e3 * taken_s for taken_s in samples[name]], "ms"
            )
            figures[f"ours_to_torchrun_{name}"] = ratio_of(samples[name], samples["ours"], goal)
        else:
            why = "torchrun's store listens on every address, and no network of its own is to be had here"
            figures[f"ours_to_torchrun_{name}"] = not_measured(why, "ratio", goal)
    return Measured(figures, METHOD, versions_of("torch"))


SIZES: Final = (
    Size("steps", 60, 5, "steps of each start"),
    Size("rounds", 5, 1, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("ranks", __doc__, SIZES, measure))
