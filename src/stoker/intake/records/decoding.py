"""Whether a picture or a clip can be decoded, tried in a process that may be killed.

The child has bounded memory, is given bytes over a pipe and answers with a word; nothing that it decodes
leaves it. See docs/design/intake.md, "Records".
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final

from stoker.core.errors import MissingExtra
from stoker.intake.closed import NotClosed, close_off
from stoker.intake.sources.media import AUDIO_EXTENSIONS, IMAGE_EXTENSIONS, HeaderFault, kind_of, probe
from stoker.intake.workers import confine, ctrl_c_waits
from stoker.spec.records import RecordPart, RecordsSpec

_GOOD: Final = b""
_FRAMES: Final = 1 << 16
_EXTENSIONS: Final = {RecordPart.IMAGE: IMAGE_EXTENSIONS, RecordPart.AUDIO: AUDIO_EXTENSIONS}


class Decoder:
    """One child at a time, started when first needed and again after it died. Use as a context."""

    def __init__(self, spec: RecordsSpec) -> None:
        self._spec = spec
        self._child = 0
        self._pipe: Connection | None = None

    def fault(self, part: RecordPart, data: bytes) -> str | None:
        """Why these bytes are no picture or clip that can be decoded; None when they can be.

        Raises MissingExtra when the library for it is not installed.
        """
        if kind_of(data) not in _EXTENSIONS[part]:
            return f"no {part}"
        try:
            facts = probe(data)
        except HeaderFault:
            return f"broken {part}"
        if facts.pixels > self._spec.max_pixels or facts.samples > self._spec.max_samples:
            return f"{part} too large"
        return self._decode(part, data) if self._spec.decode else None

    def _decode(self, part: RecordPart, data: bytes) -> str | None:
        pipe = self._started()
        try:
            pipe.send_bytes(part.encode() + b"\0" + data)
            if not pipe.poll(self._spec.worker_s):
                self.close()
                return f"{part} too slow"
            answer = pipe.recv_bytes(256)
        except (EOFError, OSError):
            self.close()
            return f"{part} killed its decoder"
        return answer.decode() or None

    def _started(self) -> Connection:
        if self._pipe is None:
            _require_libraries(self._spec)
            ours, theirs = multiprocessing.Pipe()
            with ctrl_c_waits():
                self._child = os.fork()  # a worker of ours may not have children of multiprocessing
                if self._child == 0:
                    ours.close()
                    _serve(theirs, self._spec)
            theirs.close()
            self._pipe = ours
        return self._pipe

    def close(self) -> None:
        """End the child."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_libraries(spec: RecordsSpec) -> None:
    try:
        if RecordPart.IMAGE in spec.parts:
            import PIL.Image  # noqa: F401
        if RecordPart.AUDIO in spec.parts:
            import soundfile  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Trying to decode pictures and clips needs the packages pillow and soundfile.",
            hint="Install the extra 'data' from Stoker's clone: pip install '.[data]'; or set "
            "records.decode = false.",
        ) from error


def _serve(pipe: Connection, spec: RecordsSpec) -> None:
    """The child's whole life; it never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        close_off()
        confine(spec.worker_bytes)
        while True:
            part, _, data = pipe.recv_bytes().partition(b"\0")
            kind = RecordPart(part.decode())
            answer = _GOOD
            try:
                _try_image(data, spec) if kind is RecordPart.IMAGE else _try_audio(data, spec)
            except MemoryError:
                answer = f"{kind} takes too much memory".encode()
            except Exception:  # noqa: BLE001 - the top of a process; what it says may be personal
                answer = f"broken {kind}".encode()
            pipe.send_bytes(answer)
    except (EOFError, OSError, NotClosed):
        pass
    finally:
        os._exit(0)


def _try_image(data: bytes, spec: RecordsSpec) -> None:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the header's claim was held against the recipe's limit
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > spec.max_pixels:
            raise MemoryError
        image.load()


def _try_audio(data: bytes, spec: RecordsSpec) -> None:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as clip:
        decoded = 0
        while len(frames := clip.read(_FRAMES, dtype="float32", always_2d=True)):
            decoded += frames.size
            if decoded > spec.max_samples:
                raise MemoryError
        if not decoded:
            raise ValueError("no samples")
