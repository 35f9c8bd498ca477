"""The record: a catalogue of what exists and an audit log of who did what. See docs/design/ledger.md."""
