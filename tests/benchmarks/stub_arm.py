"""Started by test_arms.py: an arm whose steps are sleeps, which notes in a file when it works.

SPEC: name, seconds (of a step), log (file), fail ("build", "step" or null).
"""

import sys
import time

from benchmarks import arms


def main() -> None:
    spec = arms.spec_of()
    channel = arms.connect()
    if spec.get("fail") == "build":
        raise ValueError("no such model")
    channel.ready(parameters=7)
    steps = 0
    while True:
        steps += 1
        if spec.get("fail") == "step" and steps > 3:
            raise MemoryError("out of memory, said the device")
        with channel.phase("forward"):
            time.sleep(spec["seconds"])
        with open(spec["log"], "a") as log:
            log.write(spec["name"])
        channel.step(useful_tokens=90, padded_tokens=100, examples=3)


if __name__ == "__main__":
    sys.exit(main())
