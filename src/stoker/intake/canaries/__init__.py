"""People who do not exist, planted in a copy of a source to count what is found. See docs/design/measured.md."""
