"""A dataset becomes batches: order, reader, state. See docs/design/feed.md."""
