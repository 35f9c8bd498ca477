"""Where a text holds personal or secret data. See docs/design/detect.md."""
