"""Backends, the gateway and what the tests may ask of them.

Only the standard library, so that the Node suite can use it through ``python3 -m harness``.
"""

from .backends import AttachedSim, LlamaCpp, RealOllama, Sim
from .cloud import CLOUD_MODEL, Cloud
from .gateway import Gateway
from .process import eventually
from .stack import ADMIN_KEY, FAST, OTHER, SLOW, Missing, Stack, Watch

__all__ = [
    "ADMIN_KEY",
    "CLOUD_MODEL",
    "FAST",
    "OTHER",
    "SLOW",
    "AttachedSim",
    "Cloud",
    "Gateway",
    "LlamaCpp",
    "Missing",
    "RealOllama",
    "Sim",
    "Stack",
    "Watch",
    "eventually",
]
