import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from trainer.config import DataSection
from trainer.data.sources import iter_examples
from trainer.sample import WRITERS, write_sample
from trainer.sample.files import DEV, TRAIN
from trainer.sample.supertags import backward, forward, leaf
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import TASKS

SIZES = {"squad_v1": (360, 96), "squad_v2": (360, 96), "anli_plus": (3 * TRAIN, 3 * DEV)}


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def examples(sample: Path, name: str, split: str) -> list[dict]:
    task, data = TASKS[name], DataSection(source="files", folder=str(sample))
    found = (FORMATS[task.format].example(row, task) for _, row in iter_examples(task, split, data))
    return [example for example in found if example is not None]


def without_id(example: dict) -> str:
    return json.dumps({key: value for key, value in example.items() if key != "id"}, sort_keys=True)


def test_same_seed_same_bytes(sample, tmp_path):
    write_sample(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(sample)
    write_sample(tmp_path / "other", seed=1)
    other, files = contents(tmp_path / "other"), contents(sample)
    assert sorted(other) == sorted(files)
    assert [name for name in files if files[name] == other[name]] == ["README.md"]


def test_bytes_do_not_depend_on_hashing(sample, tmp_path):
    code = "import sys, pathlib; from trainer.sample import write_sample; write_sample(pathlib.Path(sys.argv[1]))"
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, cwd=root, env={"PYTHONHASHSEED": "7"}, timeout=60
    )
    assert contents(tmp_path) == contents(sample)


def test_imports_nothing_heavy():
    code = "import sys, trainer.sample.encoder as e; print('torch' in sys.modules, 'transformers' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_task_has_its_folder_and_the_readme_is_honest(sample):
    assert sorted(path.name for path in sample.iterdir() if path.is_dir()) == sorted(WRITERS)
    assert set(TASKS) <= set(WRITERS)
    assert "shows that the machine works, not that the method does" in (sample / "README.md").read_text()


@pytest.mark.parametrize("name", TASKS)
def test_counts_and_no_overlap(sample, name):
    train, dev = examples(sample, name, "train"), examples(sample, name, "dev")
    assert (len(train), len(dev)) == SIZES.get(name, (TRAIN, DEV))
    texts = [without_id(example) for example in train + dev]
    assert len(set(texts)) == len(texts)


CHOOSING = [name for name, task in TASKS.items() if task.format in ("pair_classification", "multiple_choice")]


@pytest.mark.parametrize("name", CHOOSING)
def test_labels_are_balanced(sample, name):
    for split in ("train", "dev"):
        found = examples(sample, name, split)
        counts = Counter(example["label"] for example in found)
        assert len(counts) == (TASKS[name].choices or len(TASKS[name].labels))
        assert max(counts.values()) - min(counts.values()) <= 0.03 * len(found) + 1


def test_rows_without_gold_label_are_there_and_dropped(sample):
    data = DataSection(source="files", folder=str(sample))
    assert len(list(iter_examples(TASKS["anli_plus"], "dev", data))) == 3 * DEV + 3


@pytest.mark.parametrize("name", [n for n, t in TASKS.items() if t.format == "multiple_choice"])
def test_options_differ(sample, name):
    for example in examples(sample, name, "train"):
        assert len(set(example["choices"])) == TASKS[name].choices


SQUAD_FILES = [f"squad_v{v[0]}/{split}-v{v}" for v in ("1.1", "2.0") for split in ("train", "dev")]


@pytest.mark.parametrize("name", SQUAD_FILES)
def test_offsets(sample, name):
    tree = json.loads((sample / f"{name}.json").read_text(encoding="utf-8"))
    ids, impossible, total = set(), 0, 0
    for article in tree["data"]:
        assert len(article["paragraphs"]) == 4
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                ids.add(qa["id"])
                total += 1
                impossible += qa.get("is_impossible", False)
                assert bool(qa["answers"]) != qa.get("is_impossible", False)
                assert "dev" not in name or len(qa["answers"]) in (0, 3)
                for answer in qa["answers"] + qa.get("plausible_answers", []):
                    assert answer["text"] and paragraph["context"].startswith(answer["text"], answer["answer_start"])
    assert len(ids) == total
    assert 0.2 < impossible / total < 0.5 if "v2" in name else not impossible


def test_derivations_read_back(sample):
    text = (sample / "ccg/train.auto").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("ID=")]
    assert len(lines) == TRAIN == text.count("PARSER=GOLD")
    for line in lines:
        assert _category(line) == "S[dcl]"
    tags = {tag for example in examples(sample, "ccg", "train") for tag in example["tags"]}
    assert len(tags) > 20
    assert {tag for example in examples(sample, "ccg", "dev") for tag in example["tags"]} <= tags


def _category(line: str) -> str:
    """The root's category of a derivation, after checking that brackets, head and child counts are right."""
    stack = []
    for kind, category, rest in re.findall(r"\(<([TL]) (\S+) ([^>]*)>\)?|(?<= )\)", line):
        if kind == "T":
            stack.append((category, *map(int, rest.split()), []))
            continue
        if kind == "":
            category, head, count, children = stack.pop()
            assert len(children) == count > head
        if not stack:
            return category
        stack[-1][3].append(category)
    raise AssertionError(f"unbalanced: {line}")


def test_grammar_refuses_ill_formed_combinations():
    verb, name = leaf(r"(S[dcl]\NP)/NP", "VBZ", "sees"), leaf("NP", "NNP", "Anna")
    sentence = backward(name, forward(verb, name))
    assert sentence.category == "S[dcl]"
    with pytest.raises(ValueError, match="does not apply"):
        forward(verb, verb)
    with pytest.raises(ValueError, match="takes no argument"):
        forward(name, verb)
