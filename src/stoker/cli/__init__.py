"""A room being opened."""
