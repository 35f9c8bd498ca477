"""Fetch the Linux kernel's documentation by its recipe and lay it out for `stoker import`: English prose.

    python examples/kernel-docs/fetch.py FOLDER

The texts are the reStructuredText files of Debian's package linux-doc-6.1: GPL-2, parts under other free
licences that each file names. The package is fetched with `apt-get download`, which compares it with the
distribution's signed list, and never committed; updates of Debian replace it, so version and digest are
printed. Translations are left out: they say in other languages what is there already.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "linux-doc-6.1"
DOCUMENTS: Final = f"usr/share/doc/{PACKAGE}/Documentation"
LEFT_OUT: Final = ("translations",)
"""Folders of the documentation that are not taken."""


def fetched(folder: Path) -> Path:
    """The package, of the newest version that the distribution has."""
    subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True)
    (archive,) = folder.glob("*.deb")
    return archive


def laid_out(archive: Path, folder: Path) -> tuple[int, int]:
    """Write each text under its own path; returns how many files and bytes there are."""
    files, size_bytes = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(["dpkg-deb", "-x", str(archive), temporary], check=True)
        documents = Path(temporary) / DOCUMENTS
        for path in sorted([*documents.rglob("*.rst"), *documents.rglob("*.rst.gz")]):
            inside = path.relative_to(documents)
            if inside.parts[0] in LEFT_OUT or not path.is_file():
                continue
            data = path.read_bytes()
            if path.suffix == ".gz":
                data, inside = gzip.decompress(data), inside.with_suffix("")
            place = folder / inside
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            files, size_bytes = files + 1, size_bytes + len(data)
    return files, size_bytes


def main() -> int:
    """Fetch, lay out, and say from what."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        archive = fetched(Path(temporary))
        files, size_bytes = laid_out(archive, Path(sys.argv[1]))
        print(f"{archive.name}, SHA-256 {hashlib.sha256(archive.read_bytes()).hexdigest()}")
    print(f"{files:,} texts, {size_bytes:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
