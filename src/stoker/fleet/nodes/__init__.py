"""Nodes: checks of this machine, the life of a node, and lemons. See docs/design/nodes.md."""
