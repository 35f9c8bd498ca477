"""The promises of docs/design/00-overview.md, each checked now, never assumed."""
