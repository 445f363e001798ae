"""The doctor: before a run, is everything as it must be on every host?

registry    checks and the questions they ask, each registered where it is written
checks/     the checks: one function each, with the questions it asks below it
probe       the process on each host that answers questions
cluster     starting probes, over ssh or here, and talking to them
processes   short distributed runs that a probe starts: collectives, parity
examine     all checks, one after another, to a report
"""

from trainer.doctor.examine import Report, Result, examine

__all__ = ["Report", "Result", "examine"]
