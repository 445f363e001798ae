"""Started in the trainer's place by test_multinode.py: writes what arrived at this rank.

python -m tests.launch.show_worker FOLDER ...
"""

import json
import os
import socket
import sys
from pathlib import Path

arguments = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
seen = {"host": socket.gethostname(), "arguments": arguments, "environment": dict(os.environ)}
(Path(arguments[0]) / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(seen))
