"""Fetch spoken letters by their recipe and lay them out for `stoker import`: 26 keywords, 15 voices.

    python examples/letters/fetch.py FOLDER

The clips are those of two packages of Debian: klettres-data (the alphabet in languages written in Latin
letters, one voice each, GPL-2+) and asterisk-core-sounds-en-wav (CC BY-SA 3.0). They are fetched with
`apt-get download` and never committed. Two voices are held out: British English and Asterisk's. The others
are also laid out faster, slower and with noise, since each says each letter once.
"""

from __future__ import annotations

import io
import string
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import soundfile

PACKAGES: Final = ("klettres-data", "asterisk-core-sounds-en-wav")
HELD_OUT: Final = ("en_GB", "asterisk")
RATE: Final = 8_000
CLIP_S: Final = 1.5
LETTERS: Final = frozenset(string.ascii_lowercase)
Wave = npt.NDArray[np.float32]


def fetched(folder: Path) -> Path:
    """The files of the packages, as they would be installed."""
    for package in PACKAGES:
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "files")], check=True)
    return folder / "files"


def voices(files: Path) -> dict[str, dict[str, Path]]:
    """The clips of each voice by letter."""
    found: dict[str, dict[str, Path]] = {}
    for place in sorted((files / "usr/share/klettres").glob("*/sounds.xml")):
        language = place.parent
        # Each language says in sounds.xml which file is which letter.
        root = ElementTree.fromstring(place.read_text())  # noqa: S314 - a package of Debian
        letters = {
            str(each.get("name")).lower(): language.parent / str(each.get("file"))
            for each in root.iterfind(".//alphabet/sound")
        }
        latin = {name: path for name, path in letters.items() if name in LETTERS and path.exists()}
        if len(latin) >= 20:
            found[language.name] = latin
    spoken = files / "usr/share/asterisk/sounds/en_US_f_Allison/letters"
    found["asterisk"] = {each.stem: each for each in spoken.glob("?.wav") if each.stem in LETTERS}
    return found


def heard(path: Path) -> Wave:
    """One channel at RATE, without the silence around it."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    wave = stretched(wave.mean(axis=1), rate / RATE)
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    wave = wave[loud[0] : loud[-1] + 1]
    return (wave / np.abs(wave).max() * 0.7).astype(np.float32)


def stretched(wave: Wave, by: float) -> Wave:
    """`by` times as fast: samples between samples, good enough for 8 kHz."""
    places = np.arange(0.0, len(wave) - 1, by)
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)


def laid_out(found: dict[str, dict[str, Path]], folder: Path) -> Counter[str]:
    """Write NAME.wav and NAME.label for each clip; returns how many there are on each side."""
    counts, chance = Counter[str](), np.random.default_rng(0)
    for voice, letters in sorted(found.items()):
        side = "later" if voice in HELD_OUT else "earlier"
        for letter, path in sorted(letters.items()):
            wave = heard(path)[: int(RATE * CLIP_S)]
            variants = {"plain": wave}
            if side == "earlier":
                variants["faster"] = stretched(wave, 1.12)
                variants["slower"] = stretched(wave, 0.88)[: int(RATE * CLIP_S)]
                variants["noisy"] = wave + chance.normal(0, 0.01, len(wave)).astype(np.float32)
                variants["noisier"] = stretched(wave, 0.95)[: int(RATE * CLIP_S)]
                variants["noisier"] += chance.normal(0, 0.02, len(variants["noisier"])).astype(np.float32)
            for name, each in variants.items():
                place = folder / side / f"{voice}-{letter}-{name}"
                place.parent.mkdir(parents=True, exist_ok=True)
                file = io.BytesIO()
                soundfile.write(file, each, RATE, format="WAV", subtype="PCM_16")
                place.with_suffix(".wav").write_bytes(file.getvalue())
                place.with_suffix(".label").write_text(letter)
                counts[side] += 1
    return counts


def main() -> int:
    """Fetch, lay out, and say how much there is."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        counts = laid_out(voices(fetched(Path(temporary))), Path(sys.argv[1]))
    print(", ".join(f"{count:,} clips in {side}/" for side, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
