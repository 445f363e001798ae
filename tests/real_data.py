"""Real labelled data for checks on real input, laid out as `data.folder` wants it: FOLDER/<task>/{train,dev}.*

The data lies beside the repository, in ../shared/data, where it is there at all. Most of the intermediate tasks' are
validation sets, cut here into train and dev by paragraph, context or activity, so that nothing of a dev question is
seen in training. The targets' are linked; with them, paragraphs of XQuAD are left out of the SQuAD tasks.

    python tests/real_data.py OUT [--targets [--at-most SENTENCES QUESTIONS PAIRS]]

`--at-most` thins the test sets evenly: so many sentences or multiple-choice questions a language, paragraphs with
about so many questions, and so many pairs to retrieve. BUCC keeps its gold pairs, and ten other sentences for a pair.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DEV_SHARE = 0.15


def _open(path: str):
    return io.TextIOWrapper(gzip.open(REAL_DATA / path), encoding="utf-8-sig", newline="")


def _open_any(path: str):
    return _open(path) if path.endswith(".gz") else open(REAL_DATA / path, encoding="utf-8-sig", newline="")


def _is_dev(group: str) -> bool:
    return int(hashlib.md5(group.encode()).hexdigest()[:8], 16) < DEV_SHARE * 16**8


def _write(
    folder: Path, suffix: str, items: Iterable, group: Callable[[object], str], lines: Callable[[list], str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    items = list(items)
    for split, wanted in (("train", False), ("dev", True)):
        (folder / f"{split}.{suffix}").write_text(lines([i for i in items if _is_dev(group(i)) == wanted]))


def _jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _squad(name: str, path: str, out: Path, targets: bool) -> None:
    paragraphs = [p for article in json.load(_open(path))["data"] for p in article["paragraphs"]]
    if targets:
        allowed = set((REAL_DATA / "squad2/ids_not_in_xquad.txt").read_text().split())
        paragraphs = [p for p in paragraphs if all(question["id"] in allowed for question in p["qas"])]
    _write(
        out / name,
        "json",
        paragraphs,
        lambda p: p["context"],
        lambda ps: json.dumps({"data": [{"title": "", "paragraphs": ps}]}),
    )


def _tsv(rows: list[list[str]], header: list[str]) -> str:
    return "".join("\t".join(row) + "\n" for row in [header, *rows])


def build(out: Path, targets: bool = False, at_most: tuple[int, int, int] | None = None) -> None:
    """Write every task that has real data: anli_plus (SNLI), mnli (XNLI dev, English), qqp, squad_v1, squad_v2,
    hellaswag, ccg (Brown corpus tags), cosmos_qa, commonsense_qa; and the targets, see `write_targets`."""
    if targets:
        write_targets(out, at_most)
    names = {"0": "entailment", "1": "neutral", "2": "contradiction"}
    snli = [line.rstrip("\r\n").split("\t") for part in ("dev", "test") for line in _open(f"nli/snli/{part}.txt.gz")]
    rows = [{"premise": a, "hypothesis": b, "label": names[label]} for a, b, label in snli]
    # All of ANLI+'s parts are required; one file under a name of its own stands for them (see `files` below).
    _write(out / "anli_plus", "jsonl", rows, lambda r: r["premise"], _jsonl)
    xnli = [line.rstrip("\r\n").split("\t") for line in _open("xnli/dev-en.tsv.gz")]
    pairs = [{"premise": a, "hypothesis": b, "label": label} for a, b, label in xnli]
    _write(out / "mnli", "jsonl", pairs, lambda r: r["premise"], _jsonl)
    quora = [
        line.rstrip("\r\n").split("\t") for part in ("dev", "test") for line in _open(f"paraphrase/quora/{part}.txt.gz")
    ]
    header = ["question1", "question2", "is_duplicate"]
    _write(out / "qqp", "tsv", quora, lambda r: r[0], lambda rows: _tsv(rows, header))
    _squad("squad_v1", "squad1/dev-v1.1-answerable-half.json.gz", out, targets)
    _squad("squad_v2", "squad2/dev-v2.0.json.gz", out, targets)
    hellaswag = [json.loads(line) for line in _open("hellaswag/hellaswag_val.jsonl.gz")]
    _write(out / "hellaswag", "jsonl", hellaswag, lambda r: r["activity_label"], _jsonl)
    cosmos = list(csv.DictReader(_open("cosmosqa/valid.csv.gz")))
    _write(out / "cosmos_qa", "jsonl", cosmos, lambda r: r["context"], _jsonl)
    commonsense = [json.loads(line) for line in _open("commonsenseqa/dev_rand_split.jsonl.gz")]
    _write(out / "commonsense_qa", "jsonl", commonsense, lambda r: r["question"]["stem"], _jsonl)
    (out / "ccg").mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        (out / "ccg" / f"{split}.tsv").write_text(_open(f"brown/{split}.tsv.gz").read())


def write_targets(out: Path, at_most: tuple[int, int, int] | None) -> None:
    """Targets, as far as there is labelled data: dev sets stand for the tests of PAN-X, PAWS-X and MLQA, whose tests
    have no labels there; part-of-speech tags are in XTREME's form; XNLI's tests get their labels; Social IQa's dev set
    is cut into train and dev, BUCC's into the two splits that thresholds are tuned on and tested on."""
    sentences, questions, pairs = at_most or (sys.maxsize, sys.maxsize, sys.maxsize)
    out.mkdir(parents=True, exist_ok=True)
    (out / "lareqa").symlink_to(REAL_DATA / "lareqa")
    for path in (REAL_DATA / "tatoeba").glob("tatoeba.*"):
        _put(out / "tatoeba" / path.name, "".join(_thin(path.read_text().splitlines(keepends=True), pairs)))
    _bucc(out / "bucc2018", 10 * pairs)
    for task, folder, pattern in (("udpos", "udpos_xtreme", "*.tsv*"), ("panx", "panx", "*.tsv*"),
                                  ("pawsx", "pawsx", "dev-*")):  # fmt: skip
        for path in (REAL_DATA / folder).glob(pattern):
            split, name = path.name.removesuffix(".gz").split("-", 1)
            blocks = _open_any(f"{folder}/{path.name}").read()
            unit = "\n" if task == "pawsx" else "\n\n"
            blocks = [block for block in blocks.replace("\r\n", "\n").split(unit) if block.strip()]
            for own in ("dev", "test") if task != "udpos" and split == "dev" else (split,):
                kept = _thin(blocks, sentences) if own == "test" else blocks
                _put(out / task / f"{own}-{name}", unit.join(kept) + "\n")
    labels = (REAL_DATA / "xnli/test.labels.txt").read_text().split()
    for path in (REAL_DATA / "xnli").glob("test-*.tsv.gz"):
        lines = [line.rstrip("\r\n") for line in _open(f"xnli/{path.name}")]
        rows = [f"{line}\t{label}\n" for line, label in zip(lines, labels, strict=True)]
        _put(out / "xnli" / path.name.removesuffix(".gz"), "".join(_thin(rows, sentences)))
    for path in (REAL_DATA / "xcopa").glob("*/*.jsonl*"):
        name = path.relative_to(REAL_DATA / "xcopa").as_posix()
        lines = _open_any(f"xcopa/{name}").read().splitlines()
        kept = _thin(lines, sentences) if path.name.startswith("test.") else lines
        _put(out / "xcopa" / name.removesuffix(".gz"), "\n".join(kept) + "\n")
    siqa = _open("siqa/socialIQa_v1.4_dev.jsonl.gz").read().splitlines()
    for split, name in (("train", "trn"), ("dev", "dev")):
        lines = [line for line in siqa if _is_dev(json.loads(line)["context"]) == (split == "dev")]
        _put(out / "siqa" / f"socialIQa_v1.4_{name}.jsonl", "\n".join(lines) + "\n")
    for task, own in (("xquad", ""), ("tydiqa", ""), ("mlqa", "test/")):
        for path in (REAL_DATA / task).rglob("*.json*"):
            name = path.name.removesuffix(".gz").replace("dev-", "test-", 1) if own else path.name.removesuffix(".gz")
            tree = json.load(_open_any(path.relative_to(REAL_DATA).as_posix()))
            if "train" not in name:
                tree["data"] = [{"title": "", "paragraphs": _few_questions(tree["data"], questions)}]
            _put(out / task / (own + name), json.dumps(tree, ensure_ascii=False))


def _bucc(out: Path, others: int) -> None:
    """Cut BUCC's Chinese-English dev split in two, each with its gold pairs and so many other sentences at most."""
    gold = [line.split("\t") for line in (REAL_DATA / "bucc2018/zh-en.dev.gold").read_text().splitlines()]
    files = {language: _open(f"bucc2018/zh-en.dev.{language}.gz").read().splitlines() for language in ("zh", "en")}
    for split in ("sample", "training"):

        def ours(name: str, first: bool = split == "sample") -> bool:
            return (hashlib.md5(name.encode()).digest()[0] < 128) == first

        pairs = [pair for pair in gold if ours(pair[0])]
        _put(out / f"zh-en.{split}.gold", "".join("\t".join(pair) + "\n" for pair in pairs))
        for side, (language, lines) in enumerate(files.items()):
            paired = {pair[side] for pair in gold}
            rest = [name for name in (line.split("\t")[0] for line in lines) if name not in paired and ours(name)]
            kept = {pair[side] for pair in pairs} | set(_thin(rest, others))
            _put(out / f"zh-en.{split}.{language}", "".join(f"{i}\n" for i in lines if i.split("\t")[0] in kept))


def _few_questions(articles: list[dict], at_most: int) -> list[dict]:
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    asked = sum(len(paragraph["qas"]) for paragraph in paragraphs)
    return _thin(paragraphs, max(1, len(paragraphs) * at_most // asked))


def _thin(items: list, at_most: int) -> list:
    """So many of them, evenly spaced: parallel files keep parallel lines."""
    kept = min(len(items), at_most)
    return [items[i * len(items) // kept] for i in range(kept)]


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(out: Path) -> dict[str, dict[str, list[str]]]:
    """What `data.files` must say besides `data.folder`: ANLI+ from one file instead of its five parts."""
    return {"anli_plus": {split: [str(out / "anli_plus" / f"{split}.jsonl")] for split in ("train", "dev")}}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--targets", action="store_true")
    options.add_argument("--at-most", type=int, nargs=3, metavar=("SENTENCES", "QUESTIONS", "PAIRS"))
    given = options.parse_args()
    build(given.out, given.targets, given.at_most and tuple(given.at_most))
