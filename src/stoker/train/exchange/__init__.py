"""Weights into and out of Hugging Face's form, and a model's way out: docs/design/exchange.md."""
