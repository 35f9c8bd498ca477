"""One open loader in a process of its own, in the peers' environment; bench/loaders.py starts it.

`python bench/peers/loader.py LOADER write|measure tokens|files RAW FOLDER [SECONDS]` prints one JSON object.
RAW is a .npy file of samples [count, 2048] in uint16 whose first two tokens are the sample's number, or a
folder of .jpg files. Imports nothing of Stoker.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

TOKENS = 2048
BATCH = 64
SEED = 7
RESUMED_AT = 20  # batches: early, for the slow ones to get there
CHUNK_BYTES = 1 << 26


class Loader:
    """Writes its own format, and reads it back one by one or in batches; tokens as arrays, files as bytes."""

    package = ""
    modules: tuple[str, ...] = ()
    exact_resume = True

    def __init__(self, kind: str, folder: Path) -> None:
        self.tokens = kind == "tokens"
        self.folder = folder

    def load(self) -> None:
        """Import what reading needs, so that imports are no part of any time."""
        for module in self.modules:
            importlib.import_module(module)

    def write(self, raw: Path) -> None:
        raise NotImplementedError

    def samples(self, shuffled: bool) -> Iterator[Any]:
        raise NotImplementedError

    def batches(self) -> Iterator[Any]:
        """Shuffled, BATCH samples each."""
        raise NotImplementedError

    def resumed(self, taken: int) -> tuple[float, Any, Any]:
        """Seconds from making a loader to its batch behind `taken`; that batch; and the one expected."""
        raise NotImplementedError

    def items(self, raw: Path) -> Iterator[Any]:
        if self.tokens:
            yield from np.load(raw, mmap_mode="r")
        else:
            for path in sorted(raw.glob("*.jpg")):
                yield path.read_bytes()

    def decoded(self, data: bytes) -> Any:
        return np.frombuffer(data, np.uint16) if self.tokens else data


class LitData(Loader):
    package = "litdata"
    modules = (
        "litdata",
        "torch",
    )

    def write(self, raw: Path) -> None:
        import torch
        from litdata import TokensLoader, optimize

        if self.tokens:
            count = len(np.load(raw, mmap_mode="r"))
            step = 512
            optimize(
                _Tokens(raw, step),
                list(range(0, count, step)),
                str(self.folder),
                chunk_size=CHUNK_BYTES // 4096 * TOKENS,
                item_loader=TokensLoader(block_size=TOKENS),
                num_workers=1,
                start_method="fork",
            )
            assert torch
        else:
            optimize(
                _File(),
                sorted(map(str, raw.glob("*.jpg"))),
                str(self.folder),
                chunk_bytes="64MB",
                num_workers=1,
                start_method="fork",
            )

    def dataset(self, shuffled: bool) -> Any:
        from litdata import StreamingDataset, TokensLoader

        loader = TokensLoader(block_size=TOKENS) if self.tokens else None
        return StreamingDataset(str(self.folder), item_loader=loader, shuffle=shuffled, seed=SEED)

    def samples(self, shuffled: bool) -> Iterator[Any]:
        return iter(self.dataset(shuffled))

    def loader(self) -> Any:
        from litdata import StreamingDataLoader

        collate = None if self.tokens else list
        return StreamingDataLoader(self.dataset(True), batch_size=BATCH, num_workers=0, collate_fn=collate)

    def batches(self) -> Iterator[Any]:
        return iter(self.loader())

    def resumed(self, taken: int) -> tuple[float, Any, Any]:
        loader = self.loader()
        stream = iter(loader)
        for _ in range(taken):
            next(stream)
        state = loader.state_dict()
        expected = next(stream)
        began = time.perf_counter()
        again = self.loader()
        again.load_state_dict(state)
        first = next(iter(again))
        return time.perf_counter() - began, first, expected


class _Tokens:
    """Blocks of samples for litdata; a class, since its workers need something to pickle."""

    def __init__(self, raw: Path, step: int) -> None:
        self.raw, self.step = raw, step

    def __call__(self, first: int) -> Iterator[Any]:
        import torch

        block = np.load(self.raw, mmap_mode="r")[first : first + self.step]
        yield torch.from_numpy(np.array(block).reshape(-1))


class _File:
    def __call__(self, path: str) -> bytes:
        return Path(path).read_bytes()


class Mosaic(Loader):
    package = "mosaicml-streaming"

    def load(self) -> None:
        self.module()

    @staticmethod
    def module() -> ModuleType:
        """The package, whose import asks for two names of torchvision that reading shards does not use."""
        for name, members in {
            "torchvision": {},
            "torchvision.datasets": {"VisionDataset": object, "CIFAR10": object},
            "torchvision.transforms": {},
            "torchvision.transforms.functional": {"to_tensor": None},
            "transformers": {},
            "transformers.models": {},
            "transformers.models.auto": {},
            "transformers.models.auto.tokenization_auto": {"AutoTokenizer": object},
            "transformers.feature_extraction_utils": {"BatchFeature": _Never},
            "transformers.tokenization_utils_base": {"BatchEncoding": _Never},
        }.items():
            module = ModuleType(name)
            module.__dict__.update(members)
            sys.modules.setdefault(name, module)
        import streaming

        return streaming

    def write(self, raw: Path) -> None:
        column = f"ndarray:uint16:{TOKENS}" if self.tokens else "bytes"
        with self.module().MDSWriter(
            out=str(self.folder), columns={"x": column}, size_limit=CHUNK_BYTES
        ) as writer:
            for item in self.items(raw):
                writer.write({"x": np.array(item) if self.tokens else item})

    def dataset(self, shuffled: bool) -> Any:
        streaming = self.module()
        streaming.base.util.clean_stale_shared_memory()
        return streaming.StreamingDataset(
            local=str(self.folder), shuffle=shuffled, shuffle_seed=SEED, batch_size=BATCH
        )

    def samples(self, shuffled: bool) -> Iterator[Any]:
        for sample in self.dataset(shuffled):
            yield sample["x"]

    def loader(self) -> Any:
        collate = None if self.tokens else (lambda rows: {"x": [row["x"] for row in rows]})
        return self.module().StreamingDataLoader(self.dataset(True), batch_size=BATCH, collate_fn=collate)

    def batches(self) -> Iterator[Any]:
        for batch in self.loader():
            yield batch["x"]

    def resumed(self, taken: int) -> tuple[float, Any, Any]:
        loader = self.loader()
        stream = iter(loader)
        for _ in range(taken):
            next(stream)
        state = loader.state_dict()
        expected = next(stream)["x"]
        del stream, loader
        began = time.perf_counter()
        again = self.loader()
        again.load_state_dict(state)
        first = next(iter(again))["x"]
        return time.perf_counter() - began, first, expected


class _Never:
    pass


class WebDataset(Loader):
    package = "webdataset"
    modules = ("webdataset",)
    exact_resume = False

    def write(self, raw: Path) -> None:
        import webdataset as wds

        with wds.ShardWriter(f"{self.folder}/%06d.tar", maxsize=CHUNK_BYTES, verbose=0) as writer:
            for number, item in enumerate(self.items(raw)):
                data = np.array(item).tobytes() if self.tokens else item
                writer.write({"__key__": f"{number:09d}", "x": data})

    def dataset(self, shuffled: bool) -> Any:
        import webdataset as wds

        shards = sorted(map(str, self.folder.glob("*.tar")))
        found = wds.WebDataset(shards, shardshuffle=len(shards) if shuffled else False, seed=SEED)
        return found.shuffle(1000) if shuffled else found

    def samples(self, shuffled: bool) -> Iterator[Any]:
        for sample in self.dataset(shuffled):
            yield self.decoded(sample["x"])

    def batches(self) -> Iterator[Any]:
        return _stacked(self.samples(True), self.tokens)


class HuggingFace(Loader):
    package = "datasets"
    modules = ("datasets",)

    def write(self, raw: Path) -> None:
        import datasets
        import pyarrow as pa

        if self.tokens:
            flat = pa.array(np.load(raw).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, TOKENS)
        else:
            column = pa.array(list(self.items(raw)), pa.binary())
        datasets.Dataset(pa.table({"x": column})).save_to_disk(str(self.folder), max_shard_size="64MB")

    def dataset(self, shuffled: bool) -> Any:
        import datasets

        datasets.disable_progress_bars()
        found = datasets.load_from_disk(str(self.folder))
        found = found.with_format("numpy") if self.tokens else found
        return found.shuffle(seed=SEED, keep_in_memory=True) if shuffled else found

    def samples(self, shuffled: bool) -> Iterator[Any]:
        for row in self.dataset(shuffled):
            yield row["x"]

    def batches(self) -> Iterator[Any]:
        for batch in self.dataset(True).iter(BATCH):
            yield batch["x"]

    def resumed(self, taken: int) -> tuple[float, Any, Any]:
        stream = self.batches()
        for _ in range(taken):
            next(stream)
        expected = next(stream)
        began = time.perf_counter()
        again = self.dataset(True)
        first = again[taken * BATCH : (taken + 1) * BATCH]["x"]
        return time.perf_counter() - began, first, expected


class Parquet(Loader):
    """Row groups in a drawn order, rows drawn inside each: the fast way to shuffle a Parquet file.

    Tokens are a list column, as text pipelines write them.
    """

    package = "pyarrow"
    modules = ("pyarrow.parquet",)

    def write(self, raw: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole = self.column(np.load(raw)) if self.tokens else None
        column = pa.array(list(self.items(raw)), pa.binary()) if whole is None else whole
        table = pa.table({"x": column})
        pq.write_table(
            table,
            self.folder / "x.parquet",
            row_group_size=256,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )

    def column(self, tokens: np.ndarray) -> Any:
        import pyarrow as pa

        offsets = np.arange(len(tokens) + 1, dtype=np.int32) * TOKENS
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens.reshape(-1)))

    def array(self, column: Any) -> np.ndarray:
        """A row group's tokens, [rows, TOKENS], without a copy."""
        found: np.ndarray = column.values.to_numpy()
        return found.reshape(-1, TOKENS)

    def groups(self, shuffled: bool, skip: int = 0) -> Iterator[tuple[Any, np.ndarray]]:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self.folder / "x.parquet")
        order = np.random.default_rng(SEED).permutation(file.num_row_groups)
        for group in order[skip:] if shuffled else range(file.num_row_groups):
            column = file.read_row_group(int(group), use_threads=False).column(0).combine_chunks()
            rows = len(column)
            drawn = (
                np.random.default_rng([SEED, int(group)]).permutation(rows) if shuffled else np.arange(rows)
            )
            if self.tokens:
                yield self.array(column), drawn
            else:
                yield column.to_pylist(), drawn

    def samples(self, shuffled: bool) -> Iterator[Any]:
        for rows, drawn in self.groups(shuffled):
            for row in drawn:
                yield rows[row]

    def batches(self) -> Iterator[Any]:
        return self.batches_from(0)

    def batches_from(self, taken: int) -> Iterator[Any]:
        import pyarrow.parquet as pq

        facts = pq.read_metadata(self.folder / "x.parquet")
        skip = 0
        for group in np.random.default_rng(SEED).permutation(facts.num_row_groups):
            held = facts.row_group(int(group)).num_rows // BATCH
            if held > taken:
                break
            taken, skip = taken - held, skip + 1
        for rows, drawn in self.groups(True, skip):
            for start in range(taken * BATCH, len(drawn) - BATCH + 1, BATCH):
                chosen = drawn[start : start + BATCH]
                yield rows[chosen] if self.tokens else [rows[row] for row in chosen]
            taken = 0

    def resumed(self, taken: int) -> tuple[float, Any, Any]:
        stream = self.batches()
        for _ in range(taken):
            next(stream)
        expected = next(stream)
        began = time.perf_counter()
        first = next(self.batches_from(taken))
        return time.perf_counter() - began, first, expected


class ParquetBinary(Parquet):
    """The same with a sample as one value of 4,096 bytes, which Parquet reads at the speed of a copy."""

    def column(self, tokens: np.ndarray) -> Any:
        import pyarrow as pa

        data = pa.py_buffer(tokens.tobytes())
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * TOKENS), len(tokens), [None, data])

    def array(self, column: Any) -> np.ndarray:
        return np.frombuffer(column.buffers()[1], np.uint16).reshape(-1, TOKENS)[: len(column)]


class Grain(Loader):
    package = "grain"
    modules = (
        "grain",
        "array_record.python.array_record_data_source",
    )

    def write(self, raw: Path) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(f"{self.folder}/x.array_record", "group_size:1,uncompressed")
        for item in self.items(raw):
            writer.write(np.array(item).tobytes() if self.tokens else item)
        writer.close()

    def dataset(self, shuffled: bool) -> Any:
        import grain

        source = grain.sources.ArrayRecordDataSource([f"{self.folder}/x.array_record"])
        found = grain.MapDataset.source(source)
        found = found.shuffle(seed=SEED) if shuffled else found
        return found.map(self.decoded)

    def samples(self, shuffled: bool) -> Iterator[Any]:
        found = self.dataset(shuffled)
        for number in range(len(found)):
            yield found[number]

    def iterator(self) -> Any:
        return iter(self.dataset(True).batch(BATCH, batch_fn=None if self.tokens else list).to_iter_dataset())

    def batches(self) -> Iterator[Any]:
        return self.iterator()

    def resumed(self, taken: int) -> tuple[float, Any, Any]:
        stream = self.iterator()
        for _ in range(taken):
            next(stream)
        state = stream.get_state()
        expected = next(stream)
        began = time.perf_counter()
        again = self.iterator()
        again.set_state(state)
        first = next(again)
        return time.perf_counter() - began, first, expected


LOADERS: dict[str, type[Loader]] = {
    "litdata": LitData,
    "mosaicml": Mosaic,
    "webdataset": WebDataset,
    "huggingface": HuggingFace,
    "parquet": Parquet,
    "parquet_binary": ParquetBinary,
    "grain": Grain,
}


def _stacked(samples: Iterator[Any], tokens: bool) -> Iterator[Any]:
    rows: list[Any] = []
    for sample in samples:
        rows.append(sample)
        if len(rows) == BATCH:
            yield np.stack(rows) if tokens else rows
            rows = []


def size_of(sample: Any) -> int:
    """Bytes delivered, whatever form they have."""
    if isinstance(sample, bytes):
        return len(sample)
    if isinstance(sample, list):
        return sum(map(len, sample))
    return int(sample.nbytes)


def rate(make: Callable[[], Iterator[Any]], limit_s: float, stream: Iterator[Any] | None = None) -> float:
    """MB/s until `limit_s` have passed, the first item apart; where the epoch ends, another is begun."""
    stream = make() if stream is None else stream
    next(stream)
    total, number, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < limit_s:
        for item in stream:
            total += size_of(item)
            number += 1
            if number % 64 == 0 and time.perf_counter() - began > limit_s:
                break
        else:
            stream = make()
    return total / (time.perf_counter() - began) / 1e6


def first_of(make: Callable[[], Iterator[Any]]) -> tuple[float, Iterator[Any]]:
    """Milliseconds from making a stream to its first item."""
    began = time.perf_counter()
    stream = make()
    next(stream)
    return (time.perf_counter() - began) * 1e3, stream


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def same(one: Any, other: Any) -> bool:
    """Whether two batches hold the same samples in the same order."""
    if isinstance(one, list):
        return one == other
    return bool((np.asarray(one) == np.asarray(other)).all())


def measure(loader: Loader, limit_s: float) -> dict[str, Any]:
    """Every figure of one round."""
    loader.load()
    before = resident_mb()
    first_ms, stream = first_of(loader.batches)
    batches = rate(loader.batches, limit_s, stream)
    held = resident_mb() - before
    resume_ms, exact = None, False
    if loader.exact_resume:
        taken_s, first, expected = loader.resumed(RESUMED_AT)
        resume_ms, exact = taken_s * 1e3, same(first, expected)
    return {
        "version": version(loader.package),
        "sequential": rate(lambda: loader.samples(False), limit_s),
        "shuffled": rate(lambda: loader.samples(True), limit_s),
        "batches": batches,
        "first_batch_ms": first_ms,
        "memory_mb": held,
        "resume_ms": resume_ms,
        "resume_exact": exact,
    }


def main() -> None:
    name, act, kind, raw, folder, *rest = sys.argv[1:]
    random.seed(SEED)
    loader = LOADERS[name](kind, Path(folder))
    if act == "write":
        Path(folder).mkdir(parents=True)
        loader.write(Path(raw))
        print("{}")
    else:
        print(json.dumps(measure(loader, float(rest[0]))))


if __name__ == "__main__":
    main()
