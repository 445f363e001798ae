import multiprocessing
import multiprocessing.util
import threading
import time

import pytest

from trainer.data.workers import Workers
from trainer.exits import Exit, RunError


def double(value):
    return 2 * value


def test_a_pool_whose_process_is_killed_while_another_starts_ends(monkeypatch):
    """The pool ends the processes it knows of, not one that comes in meanwhile."""
    spawn, terminate = multiprocessing.util.spawnv_passfds, multiprocessing.process.BaseProcess.terminate
    ending, spawned = threading.Event(), threading.Event()

    def spawn_late(path, command, fds):
        earlier = multiprocessing.active_children()
        for process in earlier:
            process.kill()
            assert ending.wait(30)
        process = spawn(path, command, fds)
        if earlier:
            spawned.set()
            time.sleep(0.2)  # the pool learns of it when it has gone through those it knows of
        return process

    def terminate_slowly(process):
        ending.set()
        assert spawned.wait(30)
        terminate(process)

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", spawn_late)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "terminate", terminate_slowly)
    rescue = threading.Timer(30, lambda: [process.kill() for process in multiprocessing.active_children()])
    rescue.start()
    with pytest.raises(RunError) as refused, Workers(2, double) as pool:
        for future in [pool.submit(value) for value in range(3)]:
            pool.result(future)
    assert rescue.is_alive(), "the pool hung"
    rescue.cancel()
    assert refused.value.exit_code == Exit.WORKER
    assert spawned.is_set() and not multiprocessing.active_children()
