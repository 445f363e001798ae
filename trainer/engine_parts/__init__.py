"""Parts of the engine that are files of their own; with engine.py, the only modules that import DeepSpeed."""
