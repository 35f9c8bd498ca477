"""The decoder with its elementwise work fused, for CUDA. See docs/design/train-gpu.md."""
