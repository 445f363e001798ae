import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.errors import UserError
from trainer.events import Events, JsonLines, read_events


def test_every_sink_gets_the_same_event_with_its_kind_and_time():
    first, second = [], []
    before = time.time()
    Events([first.append, second.append]).emit("step", step=1, loss=0.5)
    event = first[0]
    assert event is second[0]
    assert before <= event.pop("time") <= time.time()
    assert event == {"event": "step", "step": 1, "loss": 0.5}


def test_no_sinks_do_no_work():
    Events([]).emit("step", loss=object())


def test_closing_closes_the_sinks_that_can_be_closed(tmp_path):
    sink = JsonLines(tmp_path / "events.jsonl")
    with Events([sink, print]) as events:
        events.close()
    with pytest.raises(ValueError, match="closed"):
        sink({"event": "late"})


def test_numpy_and_torch_values_become_plain():
    seen = []
    Events([seen.append]).emit(
        "step",
        loss=torch.tensor(0.5),
        half=torch.tensor(1.5, dtype=torch.bfloat16),
        small=np.float32(0.1),
        wide=np.float64(0.1),
        examples={"mnli": np.int64(3)},
        flag=np.bool_(True),
        many=np.arange(3),
        path=Path("runs/a"),
        pair=(1, torch.tensor(2)),
    )
    event = seen[0]
    assert event["small"] == float(np.float32(0.1)) and type(event["wide"]) is float
    assert event["examples"] == {"mnli": 3} and type(event["examples"]["mnli"]) is int
    assert (event["loss"], event["half"], event["flag"], event["many"]) == (0.5, 1.5, True, [0, 1, 2])
    assert (event["path"], event["pair"]) == ("runs/a", [1, 2])


def test_a_value_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match="cannot carry"):
        Events([print]).emit("step", loss=object())


def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
    path = tmp_path / "run" / "events.jsonl"
    values = [0.1, 1 / 3, 1e-300, math.pi * 1e20, 5e-324, -0.0]
    sink = JsonLines(path)
    sink({"event": "step", "values": values, "note": "naïve\nline"})
    assert read_events(path)[0]["values"] == values  # before closing: every line is flushed
    assert read_events(path)[0]["note"] == "naïve\nline"
    assert path.read_bytes().count(b"\n") == 1


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
    path = tmp_path / "events.jsonl"
    JsonLines(path)({"event": "step", "loss": math.nan, "task_loss": {"qqp": torch.tensor(math.inf)}, "x": [-math.inf]})

    def refuse(constant):
        raise AssertionError(constant)

    raw = json.loads(path.read_text(), parse_constant=refuse)
    assert (raw["loss"], raw["task_loss"], raw["x"]) == ("nan", {"qqp": "inf"}, ["-inf"])
    event = read_events(path)[0]
    assert math.isnan(event["loss"]) and event["task_loss"]["qqp"] == math.inf and event["x"] == [-math.inf]


@pytest.mark.parametrize("torn", [b'{"event": "st', b"x" * 200_000])
def test_a_torn_line_is_cut_off_when_the_file_is_opened_again(tmp_path, torn):
    path = tmp_path / "events.jsonl"
    JsonLines(path)({"event": "step", "step": 1})
    path.write_bytes(path.read_bytes() + torn)
    assert [event["step"] for event in read_events(path)] == [1]
    sink = JsonLines(path)
    assert sink.torn_bytes == len(torn)
    sink({"event": "step", "step": 2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_file_of_one_torn_line_becomes_empty_and_a_whole_file_stays(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"ev')
    assert JsonLines(path).torn_bytes == 4
    assert path.read_bytes() == b""
    path.write_bytes(b'{"event": "start"}\n')
    assert JsonLines(path).torn_bytes == 0
    assert path.read_bytes() == b'{"event": "start"}\n'


def test_files_that_cannot_be_used_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_events(tmp_path / "events.jsonl")
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "start"}\nnot json\n')
    with pytest.raises(UserError, match="line 2"):
        read_events(path)
    with pytest.raises(UserError, match="cannot be written"):
        JsonLines(path / "below" / "events.jsonl")
