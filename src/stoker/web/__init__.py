"""Pages: the same results as the command line, drawn. See docs/design/web.md."""
