"""The forms a source may have, one module a form, and where its files lie.

See docs/design/intake.md, "Sources".
"""
