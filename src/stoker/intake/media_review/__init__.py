"""What a review finds in pictures and clips, and takes out of them. See docs/design/measured.md."""
