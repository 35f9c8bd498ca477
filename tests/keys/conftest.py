"""The key back ends under test, for every module of this folder."""

from support.key_bench import bench, services

__all__ = ["bench", "services"]
