"""People who do not exist, planted to count what is found. See docs/design/measured.md."""
