"""Triton kernels of the decoder's elementwise work, each one pass over memory. See docs/design/train-gpu.md.

Products are left to cuBLAS and attention to cuDNN; these are what lies between them. Every sum is in fp32.
Import them only where Triton is: on CUDA, or in Triton's interpreter for tests.
"""
