"""Slurm as a launcher of runs. See docs/design/slurm.md."""
