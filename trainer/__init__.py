"""xstilts: multi-task intermediate training of multilingual encoders on DeepSpeed (arXiv 2005.13013, and beyond)."""

__version__ = "0.1.0"
