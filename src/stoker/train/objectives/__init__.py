"""What a family learns: a loss of a batch, and figures that say how well. See docs/design/families.md."""
