"""python -m benchmarks.lengths RECIPE [key=value ...] [--out FILE]: statistics of a recipe's prepared data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from benchmarks import lengths
from benchmarks.provenance import provenance
from trainer.config import load_recipe
from trainer.data.prepare import open_prepared
from trainer.errors import UserError
from trainer.model.encoder import load_tokenizer
from trainer.tasks import load_tasks


def main(arguments: list[str] | None = None) -> None:
    """The command; the recipe must be prepared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths", description=__doc__.split(": ")[1])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, default=lengths.PATH)
    options = parser.parse_intermixed_args(arguments)
    try:
        config = load_recipe(options.recipe, options.overrides)
        tokenizer = load_tokenizer(config)
        prepared = open_prepared(config, load_tasks(config), tokenizer)
    except UserError as error:
        Console().print(str(error), markup=False)
        raise SystemExit(error.exit_code) from None
    source = {"data": config.data.source, "vocabulary": len(tokenizer), "max_length": config.data.max_length}
    result = {"source": source, **lengths.describe(prepared), "provenance": provenance()}
    options.out.write_text(_compact(result))


def _compact(result: dict) -> str:
    """JSON with one line a task's list, so that a new version is a readable difference."""
    tasks = result.pop("tasks")
    rows = []
    for name, entry in tasks.items():
        fields = ",\n   ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items())
        rows.append(f"  {json.dumps(name)}: {{\n   {fields}\n  }}")
    return json.dumps(result, indent=1)[:-2] + ',\n "tasks": {\n' + ",\n".join(rows) + "\n }\n}\n"


if __name__ == "__main__":
    main()
