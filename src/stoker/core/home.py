"""STOKER_HOME: one folder with the embedded default of everything."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker.core.atomic import naming_full_disk, write_atomic
from stoker.core.errors import BadHome

HOME_VERSION = 1


@dataclass(frozen=True, slots=True)
class Home:
    """Names every file and folder of one installation. See docs/design/00-overview.md."""

    root: Path

    @classmethod
    def locate(cls, environment: Mapping[str, str], working_folder: Path) -> Home:
        """`STOKER_HOME`, else `./.stoker` when it exists, else `~/.stoker`."""
        named = environment.get("STOKER_HOME")
        if named:
            return cls(Path(named).absolute())
        nearby = working_folder / ".stoker"
        if nearby.is_dir():
            return cls(nearby.absolute())
        return cls(Path(environment.get("HOME", "~")).expanduser() / ".stoker")

    @property
    def ledger_path(self) -> Path:
        return self.root / "ledger.db"

    @property
    def ledger_key_path(self) -> Path:
        return self.root / "ledger.key"

    @property
    def keys_dir(self) -> Path:
        return self.root / "keys"

    @property
    def store_dir(self) -> Path:
        return self.root / "store"

    @property
    def cache_dir(self) -> Path:
        return self.root / "cache"

    @property
    def runs_dir(self) -> Path:
        return self.root / "runs"

    @property
    def locks_dir(self) -> Path:
        return self.root / "locks"

    @property
    def settings_path(self) -> Path:
        return self.root / "stoker.toml"

    def prepare(self) -> Home:
        """Make the folder (mode 0700) when it is absent, and check that it is ours to use.

        Raises BadHome when it is no folder, not writable, open to others, or of a newer version; DiskFull.
        """
        with naming_full_disk(self.root):
            return self._prepare()

    def _prepare(self) -> Home:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise BadHome(
                f"{self.root} cannot be used as STOKER_HOME: {error.strerror}.",
                hint="Set STOKER_HOME to a folder that you own.",
            ) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise BadHome(f"{self.root} is not writable.", hint="Set STOKER_HOME to a folder that you own.")
        found = self.root.stat()
        if found.st_uid != os.geteuid():
            raise BadHome(
                f"{self.root} belongs to user {found.st_uid}, not to user {os.geteuid()}, who runs Stoker.",
                hint="Set STOKER_HOME to a folder that you own.",
            )
        loose = stat.S_IMODE(found.st_mode) & 0o077
        if loose:
            raise BadHome(
                f"{self.root} can be opened by other users of this machine.",
                hint=f"Run: chmod 700 {self.root}",
            )
        self._check_version()
        for folder in (self.keys_dir, self.store_dir, self.cache_dir, self.runs_dir, self.locks_dir):
            folder.mkdir(exist_ok=True, mode=0o700)
        return self

    def _check_version(self) -> None:
        path = self.root / "version"
        if not path.exists():
            write_atomic(path, f"{HOME_VERSION}\n".encode())
            return
        found = path.read_text(errors="replace").strip()
        if found != str(HOME_VERSION):
            raise BadHome(
                f"{self.root} has layout version {found!a}; this Stoker knows version {HOME_VERSION}.",
                hint="Use the Stoker that made it, or another STOKER_HOME.",
            )
