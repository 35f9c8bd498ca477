"""A real sealed dataset, small: the standard library's own text, tokenised, packed, signed, in a store."""

from __future__ import annotations

import inspect
import json
import textwrap
import typing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stoker.core.signing import Signer
from stoker.feed.dataset import ARTEFACT_SCHEMA, Dataset
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.store.cache import NodeCache
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import SHARD_SCHEMA, ShardWriter, shard_entry
from stoker.store.superblock import Artefact, SampleSchema, Split, Superblock

NAME = "small"
VERSION = "5a" * 16
SEQUENCE_TOKENS = 24
VOCABULARY = 300
REVIEW_DIGEST = bytes(range(32))
PREFIX = f"datasets/{NAME}/{VERSION}"


@dataclass(frozen=True, slots=True)
class SmallDataset:
    """How to open the dataset again."""

    store_folder: Path
    root: str
    public_key: bytes

    def open(self, keys: KeySource, cache: NodeCache | None = None) -> Dataset:
        store = ObjectStore.open(self.store_folder.as_uri())
        return Dataset.open(
            store,
            cache,
            name=NAME,
            version=VERSION,
            root=self.root,
            public_key=self.public_key,
            keys=keys,
            review_digest=REVIEW_DIGEST,
        )


def small_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE with token 0 as the end of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def seal_small_dataset(folder: Path, keys: KeySource, kek: KekRef, signer: Signer) -> SmallDataset:
    """Prepare the dataset into a store at `folder`: splits "train" and "heldout", artefact "tokenizer"."""
    store = ObjectStore.open(folder.as_uri())
    texts = {"train": inspect.getsource(json.decoder), "heldout": inspect.getsource(textwrap)[:4000]}
    tokenizer = small_tokenizer([*texts.values(), inspect.getsource(typing)[:4000]])
    schema = SampleSchema.fit(
        vocabulary=VOCABULARY, sample_tokens=SEQUENCE_TOKENS + 1, chunk_log2=14, samples_per_shard=1000
    )
    manifest = ManifestWriter()
    splits = []
    with PartitionSeal(keys, kek, Purpose.DATASET) as seal:
        for name, text in texts.items():
            tokens = np.array(tokenizer.encode(text).ids)
            count = (len(tokens) - 1) // SEQUENCE_TOKENS
            places = np.arange(count)[:, None] * SEQUENCE_TOKENS + np.arange(SEQUENCE_TOKENS + 1)
            writer = ShardWriter(seal, _label(StreamKind.SHARD, manifest.shards, SHARD_SCHEMA), schema)
            writer.add(tokens[places])
            sealed, entry = writer.finish()
            number = manifest.add(entry)
            splits.append(Split(name, number, 1, count))
            store.create(shard_key(PREFIX, number), sealed.data)
        label = _label(StreamKind.ARTEFACT, manifest.shards, ARTEFACT_SCHEMA)
        sealed = seal.seal(label, tokenizer.to_str().encode(), chunk_log2=14)
        number = manifest.add(shard_entry(sealed, 0))
        store.create(shard_key(PREFIX, number), sealed.data)
    block = Superblock(
        subject=f"dataset/{NAME}",
        version=VERSION,
        kek=str(kek),
        review_digest=REVIEW_DIGEST,
        chunk_log2=14,
        schema=schema,
        splits=tuple(splits),
        artefacts=(Artefact("tokenizer", number),),
        source_root="0" * 64,
        recipe_digest="1" * 64,
    )
    root = manifest.finish(block, signer, store, PREFIX)
    return SmallDataset(folder, root, signer.public_key)


def _label(kind: StreamKind, shard: int, schema: int) -> StreamLabel:
    return StreamLabel(kind, f"dataset/{NAME}", VERSION, shard, schema, REVIEW_DIGEST)
