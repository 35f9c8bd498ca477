"""The steps from one schema version to the next, run by alembic. Imported only when a ledger needs them.

See docs/design/ledger.md, "Versions of the schema".
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection


def upgrade(connection: Connection, version: str) -> None:
    """Bring the database of `connection` to `version`, inside the transaction that is under way."""
    configuration = Config(attributes={"connection": connection})
    folder = str(Path(__file__).parent).replace("%", "%%")
    configuration.set_main_option("script_location", folder)
    command.upgrade(configuration, version)
