"""xstilts: multi-task intermediate training of multilingual encoders on DeepSpeed (arXiv 2005.13013, and beyond)."""

import os

__version__ = "0.1.0"

# DeepSpeed obeys DS_ACCELERATOR=cpu, torch knows nothing of it: whatever asks torch for GPUs must find none.
if os.environ.get("DS_ACCELERATOR") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
