"""A source of pictures, clips, texts and labels becomes a dataset of records. See docs/design/intake.md."""
