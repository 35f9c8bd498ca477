"""The command line: parse, call one library function, show one result. See docs/design/cli.md."""
