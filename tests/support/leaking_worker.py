"""The real worker of a rank that prints what it holds, plaintext and keys, in the ways in which libraries do.

Takes the worker's own arguments and is a rank command of `start_run`. What it printed, the test finds in
`leaked.json` of the attempt's folder, and removes.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from stoker.keys.memory import harden_process


def leak(dataset: Any, keys: Any, kek: str, place: Path) -> None:
    """Print the end of the training split, in which the canary is, and a key; fail over the text."""
    from tokenizers import Tokenizer

    from stoker.keys.refs import KekRef, Purpose

    reader = dataset.split("train")
    rows = reader.read_chunk(reader.chunks - 1)
    tokenizer = Tokenizer.from_str(dataset.artefact("tokenizer").decode())
    text = tokenizer.decode([int(each) for row in rows for each in row[:-1]], skip_special_tokens=False)
    key, _ = keys.new_partition_key(KekRef.parse(kek), Purpose.CHECKPOINT)
    secret = bytes(key.view())
    lines = [text, secret.hex(), base64.b64encode(text.encode()).decode(), base64.b64encode(secret).decode()]
    place.write_text(json.dumps({"text": text, "key": secret.hex()}))
    for line in lines:
        print(line)
        print(f"error: {line}", file=sys.stderr)
        print("x" * 5_000 + line)
        logging.warning("looked at %s", line)
        warnings.warn(line, stacklevel=1)
    os.write(1, secret + b"\n")
    os.write(2, rows.tobytes())
    sys.stdout.flush()
    os.write(1, text.encode()[-100:])
    raise ValueError(text)


def main() -> int:
    harden_process()
    from stoker.train import attempt, worker

    def leaking(job: Any, place: Any, **parts: Any) -> None:
        folder = Path(job.rendezvous).parent
        leak(parts["dataset"], parts["objects"]._keys, job.checkpoint_kek, folder / "leaked.json")

    attempt.run_attempt = leaking
    return worker.main()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
