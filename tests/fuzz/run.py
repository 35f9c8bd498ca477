"""Fuzz one parser with coverage guidance: `python tests/fuzz/run.py TARGET SECONDS CORPUS`.

`make fuzz` calls it for every target. What crashes is written to CORPUS as `crash-…`; keep it there, so that
tests/fuzz/test_corpus.py runs it from then on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["stoker"]):
    from support.fuzz_targets import TARGETS, meets


def main(name: str, seconds: str, corpus: str) -> None:
    target = TARGETS[name]
    folder = Path(corpus) / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-malloc_limit_mb=256",
        "-max_len=8192",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], lambda data: meets(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:4])
