"""Bytes at rest: object stores, sealed streams, shards, manifests, node cache. See docs/design/store.md."""
