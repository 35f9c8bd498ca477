"""datatrove's tokenisation of a folder of JSON lines in one process, in the peers' environment.

`datatrove_tokens.py TOKENIZER_JSON FOLDER OUTPUT` prints one JSON object. Imports nothing of Stoker.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def main() -> None:
    tokenizer, folder, output = sys.argv[1:]
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    logger.remove()
    tokenize = DocumentTokenizer(
        output,
        tokenizer_name_or_path=tokenizer,
        shuffle_documents=False,
        save_final_metadata=False,
        batch_size=1000,
    )
    executor = LocalPipelineExecutor(
        [JsonlReader(folder), tokenize], tasks=1, workers=1, logging_dir=f"{output}/logs"
    )
    began = time.perf_counter()
    executor.run()
    seconds = time.perf_counter() - began
    token_bytes = sum(path.stat().st_size for path in Path(output).glob("*.ds"))
    print(json.dumps({"version": version("datatrove"), "tokens": token_bytes // 2, "seconds": seconds}))


if __name__ == "__main__":
    main()
