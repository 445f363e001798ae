"""The checks, in the order in which they run; a new one is a module here, imported below."""

from trainer.doctor.checks import machine  # isort: skip
from trainer.doctor.checks import programs  # isort: skip
from trainer.doctor.checks import network  # isort: skip
from trainer.doctor.checks import storage  # isort: skip
from trainer.doctor.checks import recipe  # isort: skip
from trainer.doctor.checks import compilers  # isort: skip
from trainer.doctor.checks import data  # isort: skip
from trainer.doctor.checks import collectives  # isort: skip
from trainer.doctor.checks import parity  # isort: skip

__all__ = ["collectives", "compilers", "data", "machine", "network", "parity", "programs", "recipe", "storage"]
