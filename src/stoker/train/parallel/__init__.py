"""How a plain model is laid over ranks: one file a mesh axis. See docs/design/layout.md."""
