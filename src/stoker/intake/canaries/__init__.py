"""People who do not exist, planted in a copy of a source to count what a scan finds. See docs/design/measured.md."""
