"""Text quality steps: what a document is, whether it stays, and which of several equals stays.

Pure functions on documents; see docs/design/quality.md.
"""
