"""Access tokens in the catalogue: rows whose secret nobody keeps. See docs/design/ledger.md, "Tokens"."""

from __future__ import annotations

from stoker.ledger import rows, schema
from stoker.ledger.errors import LedgerRefused, TokenRefused
from stoker.ledger.records import AccessTokenRecord
from stoker.ledger.row_access import RowAccess


class TokenRows(RowAccess):
    """The part of the catalogue that holds access tokens."""

    def add_token(self, record: AccessTokenRecord) -> None:
        """Record a token. Raises LedgerRefused when its id is taken or its identity unknown."""
        values = rows.to_row(record)
        if self.token(record.id) is not None:
            raise LedgerRefused(f"Token {record.id} exists already.", hint="Make another one.")
        self._need(schema.identity, "identity", name=record.identity)
        self._insert(schema.access_token, values)

    def token(self, id: str) -> AccessTokenRecord | None:
        """The token of that id, or None."""
        row = self._one(schema.access_token, schema.access_token.c.id == id)
        return None if row is None else self._record(rows.access_token_of, row)

    def tokens(self, identity: str | None = None) -> tuple[AccessTokenRecord, ...]:
        """Every token ever made, or those of one identity, oldest first; revoked and expired ones too."""
        table = schema.access_token
        where = () if identity is None else (table.c.identity == identity,)
        return self._many(table, rows.access_token_of, *where)

    def revoke_token(self, id: str, at_s: float) -> None:
        """Mark a token as revoked at `at_s`. Raises TokenRefused when there is none, or it is revoked."""
        record = self.token(id)
        if record is None:
            raise TokenRefused(f"There is no token {id[:40]!a}.", hint="List them with: stoker token ls")
        if record.revoked_s is not None:
            raise TokenRefused(f"Token {record.id} is revoked already.", hint="Nothing is left to do.")
        self._update(schema.access_token, {"id": record.id}, {"revoked_s": at_s})
