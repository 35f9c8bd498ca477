"""What is measured of a step, and what is decided from it. See docs/design/watch.md."""
