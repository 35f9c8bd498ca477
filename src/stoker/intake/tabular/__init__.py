"""How well a table hides each of its rows: k-anonymity, l-diversity. See docs/design/measured.md."""
