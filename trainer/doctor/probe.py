"""The process on a host that answers the doctor's questions: one JSON object a line in, one a line out.

    python -m trainer.doctor.probe

It ends when its input does, so that nothing of it stays behind when the doctor or the connection is gone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from trainer.doctor import checks  # noqa: F401 - registers the questions
from trainer.doctor.registry import QUESTIONS
from trainer.errors import UserError


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request: its number, and a `value` or an `error` (what, why, fix)."""
    reply: dict[str, Any] = {"number": request["number"]}
    try:
        reply["value"] = QUESTIONS[request["question"]](**request["arguments"])
    except UserError as error:
        reply["error"] = {"what": error.what, "why": error.why, "fix": error.fix}
    except Exception as error:  # whatever goes wrong on a host is a finding, and must not end the others
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        reply["error"] = {"what": f"{type(error).__name__}: {error}", "why": f"raised at {where}", "fix": ""}
    return reply


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come between the replies
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
    replies.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
