"""Sentence vectors of a real encoder on Tatoeba: are they those of a plain script, and how much faster?

    python -m benchmarks.sentence_vectors MODEL TATOEBA_FOLDER [--languages de,fr] [--cores N] [--out FILE]

The accuracy in every language there is computed twice, by xstilts and by a plain script, one sentence at a time in
float32. Then, on the same sentences and cores, the plain script's batch sizes are swept, in the order of the files and
sorted by length, and its best ones take turns with xstilts, each in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from benchmarks import arms, rates, results
from benchmarks.command import no_traceback
from benchmarks.sentence_vectors_arm import Plain
from trainer import engine
from trainer.config import DataSection, RunConfig
from trainer.evaluation.retrieval import evaluate_retrieval, read_languages
from trainer.evaluation.vectors import open_encoder
from trainer.host import available_cores
from trainer.tasks.xtreme import TATOEBA

GOAL = 1.5  # times the sentences/s of the best padded batches
OURS, SINGLE = "packed", "one by one"
ORDERS = {"by length": True, "in order": False}
BATCHES = (16, 32, 64, 128)


def accuracies(model: str, folder: Path, languages: Sequence[str] | None, layer: int) -> dict[str, dict[str, Any]]:
    """Language -> both accuracies, pairs, and how many predictions differ."""
    data = DataSection(source="files", files={"tatoeba": {"test": _paths(folder)}})
    config, world = RunConfig(data=data), engine.start()
    encoder, tokenizer = open_encoder(model, config, world)
    result = evaluate_retrieval(encoder, tokenizer, config, world, {"tatoeba": TATOEBA}, languages, layer)
    ours = result["tatoeba"].languages
    del encoder
    plain, table = Plain(model, layer), {}
    for code, (text,) in read_languages(TATOEBA, config, languages)[0].items():
        english, other = (F.normalize(plain.single(side)[0], dim=1) for side in (text.queries, text.candidates))
        found = (english @ other.T).argmax(1).tolist()
        right = sum(place == gold for place, (_, gold) in zip(found, sorted(text.gold), strict=True))
        table[code] = {
            "xstilts": ours[code].scores["accuracy"],
            "plain": 100.0 * right / len(found),
            "pairs": len(found),
            "different_predictions": sum(a != b for a, b in zip(found, ours[code].predictions, strict=True)),
        }
    return table


def _paths(folder: Path) -> tuple[str, ...]:
    return tuple(str(folder / f"tatoeba.{{iso3}}-eng.{side}") for side in ("eng", "{iso3}"))


def describe(model: str, layer: str) -> dict[str, int]:
    """Which hidden states, the shape of the encoder, and its matrix products for a token but for attention's own."""
    settings = AutoConfig.from_pretrained(model)
    layers, hidden = settings.num_hidden_layers, settings.hidden_size
    index = layers if layer == "last" else int(layer)
    return {
        "layer": index,
        "layers": layers,
        "hidden_size": hidden,
        "vocabulary": settings.vocab_size,
        "flops_per_token": 2 * index * (4 * hidden * hidden + 2 * hidden * settings.intermediate_size),
    }


def sample_sentences(folder: Path, count: int) -> list[str]:
    """About `count` sentences, evenly from all files of a folder."""
    paths = sorted(path for path in folder.glob("tatoeba.*-eng.*") if path.suffix != ".gz")
    sentences = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return sentences[:: max(1, len(sentences) // count)]


def measure(
    spec: Mapping[str, Any], batches: Sequence[int], rounds: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Figures of the sweep by order and batch size; of the arms of the comparison; their ratios, round by round."""

    def turns(specs: Mapping[str, Mapping[str, Any]], rounds: int) -> dict[str, list[arms.Turn]]:
        chosen = [arms.Arm(name, "benchmarks.sentence_vectors_arm", {**spec, **own}) for name, own in specs.items()]
        taken: dict[str, list[arms.Turn]] = {arm.name: [] for arm in chosen}
        with arms.start(chosen) as running:
            for _ in range(rounds + 1):
                for name, process in running.items():
                    taken[name].append(process.turn(1, settle=0))  # a step takes seconds
        return {name: rows[1:] for name, rows in taken.items()}  # the first one warms up

    compared: dict[str, dict[str, Any]] = {OURS: {"way": "packed"}}
    sweep = {}
    for order, by_length in ORDERS.items():
        padded = {
            f"padded {order}, {batch} a batch": {"way": "padded", "batch": batch, "by_length": by_length}
            for batch in batches
        }
        figures = {name: arms.summary(rows) for name, rows in turns(padded, max(1, rounds // 2)).items()}
        best = max(figures, key=lambda name, figures=figures: figures[name]["examples_per_second"]["median"])
        compared |= {best: padded[best], f"{best}, freed memory kept": {**padded[best], "keep_memory": True}}
        sweep |= figures
    compared[SINGLE] = {"way": "single"}
    taken = turns(compared, rounds)
    ratios = {f"packed over {name}": arms.ratio_of_rounds(taken[OURS], taken[name]) for name in taken if name != OURS}
    return sweep, {name: arms.summary(rows) for name, rows in taken.items()}, ratios


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result as a person reads it."""
    speed = Table("way", "sentences/s", "fill", "of matrix rate", "packed over it", title="Sentence vectors")
    for name, row in result["arms"].items():
        rate, ratio = row["examples_per_second"], result["ratios"].get(f"packed over {name}")
        figures = f"{rate['median']:,.0f} ({rate['lowest']:,.0f}-{rate['highest']:,.0f})"
        over = f"{ratio['median']:.2f}" if ratio else ""
        speed.add_row(name, figures, f"{row['fill']:.1%}", f"{row['utilisation']:.0%}", over)
    if not result["accuracy"]:
        return [speed]
    scores = Table("language", "pairs", "xstilts", "plain", "different", title="Tatoeba accuracy")
    for code, row in result["accuracy"].items():
        figures = (f"{row['xstilts']:.2f}", f"{row['plain']:.2f}", str(row["different_predictions"]))
        scores.add_row(code, str(row["pairs"]), *figures)
    return [scores, speed]


def main(arguments: list[str] | None = None) -> None:
    """The command; prints the tables and writes the result; exit code 1 when accuracies differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sentence_vectors", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or hub name of an encoder")
    parser.add_argument("folder", type=Path, help="with tatoeba.ISO-eng.ISO and tatoeba.ISO-eng.eng, e.g. ISO=deu")
    parser.add_argument("--languages", help="e.g. de,fr; default: all that are there; none: no accuracies")
    parser.add_argument("--layer", default="last", help="index of the hidden states; default: last")
    parser.add_argument("--sentences", type=int, default=2048, help="that each turn embeds, about")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="sizes to sweep")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--out", type=Path, help="file, or folder; default: benchmarks/results")
    options = parser.parse_args(arguments)
    console = Console()
    torch.set_num_threads(options.cores)
    with no_traceback(console), tempfile.TemporaryDirectory() as scratch:
        languages = [] if options.languages == "none" else options.languages and options.languages.split(",")
        facts = describe(options.model, options.layer)
        layer = facts["layer"]
        table = accuracies(options.model, options.folder, languages, layer) if languages != [] else {}
        sentences = sample_sentences(options.folder, options.sentences)
        path = Path(scratch) / "sentences.txt"
        path.write_text("\n".join(sentences), encoding="utf-8")
        spec = {"model": options.model, "sentences": str(path), "layer": layer, "cores": options.cores}
        batches = [int(size) for size in options.batches.split(",")]
        sweep, compared, ratios = measure(spec, batches, options.rounds)
    ceiling = rates.measure(torch.device("cpu"), torch.float32)["matmul_flops_per_second"]
    for row in (*sweep.values(), *compared.values()):
        row["utilisation"] = row["padded_tokens_per_second"]["median"] * facts["flops_per_token"] / ceiling
    setting = {**facts, "sentences": len(sentences), "cores": options.cores, "rounds": options.rounds}
    setting["matmul_flops_per_second"] = ceiling
    result = {"setting": setting, "accuracy": table, "sweep": sweep, "arms": compared, "ratios": ratios}
    results.write("sentence_vectors", result, options.out)
    console.print(*tables(result))
    for name, ratio in ratios.items():
        if "padded" in name and "kept" not in name:
            verdict = "reached" if ratio["median"] >= GOAL else "MISSED"
            console.print(f"goal of {GOAL}, {name}: {verdict}")
    if any(row["xstilts"] != row["plain"] for row in table.values()):
        console.print("the accuracies differ")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
