"""A run over several nodes: an agent on each, and the supervisor's end of them. See docs/design/spread.md."""
