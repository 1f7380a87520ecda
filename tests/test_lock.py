"""The lock of a run folder: one holder at a time, named to others, and taken over from the dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedjax_kd.runs import lock
from fedjax_kd.runs.lock import LOCK, held

HERE = {"command": "fedjax-kd run", "host": socket.gethostname(), "since": 0.0}
HOLD = """
import fcntl, json, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
json.dump({**json.loads(sys.argv[2]), "pid": __import__("os").getpid()}, file)
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def is_free(folder: Path) -> bool:
    try:
        with held([folder], "fedjax-kd resume"):
            return True
    except ValueError:
        return False


def test_a_second_holder_is_told_of_the_first(tmp_path: Path):
    with held([tmp_path], "fedjax-kd run"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        says = rf"`fedjax-kd run` \(process {os.getpid()} on .*, since 20.*\): wait until it ends"
        with pytest.raises(ValueError, match=says), held([tmp_path], "fedjax-kd resume"):
            pass
    assert list(tmp_path.iterdir()) == []
    assert is_free(tmp_path)


def test_all_folders_or_none(tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    with held([two], "fedjax-kd run"):
        assert not is_free(two)
        with pytest.raises(ValueError, match="two is being written"), held([one, two], "other"):
            pass
        assert is_free(one)


def test_it_is_free_when_its_process_is_killed(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / LOCK), json.dumps(HERE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"process {process.pid} on"), held([tmp_path], "x"):
        pass
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK).exists()
    assert is_free(tmp_path)


@pytest.mark.parametrize(
    ("owner", "silent", "system_locks", "free"),
    [
        ({}, 0, True, True),  # of this machine, whose locks say that its process is gone
        ({}, 0, False, False),  # this very process, where only the file says so
        ({}, 100, False, True),
        ({"pid": 2**22 + 1}, 0, False, True),  # no system has such a process
        ({"host": "elsewhere"}, 0, True, False),
        ({"host": "elsewhere"}, 50, True, False),
        ({"host": "elsewhere"}, 100, True, True),
        ({"host": "elsewhere"}, 100, False, True),
    ],
)
def test_stale_locks(
    *,
    owner: dict,
    silent: float,
    system_locks: bool,
    free: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    if not system_locks:
        monkeypatch.setattr(lock, "_flock", lambda file: None)
    path = tmp_path / LOCK
    path.write_text(json.dumps(HERE | {"pid": os.getpid()} | owner))
    os.utime(path, (time.time() - silent,) * 2)
    assert is_free(tmp_path) == free
    assert path.exists() == (not free)


@pytest.mark.parametrize("left", ["", '{"pid": 12', "[]", '{"pid": 1}'])
def test_a_half_written_lock_has_no_owner(left: str, tmp_path: Path):
    (tmp_path / LOCK).write_text(left)
    assert is_free(tmp_path)


def test_other_machines_are_told_when_it_would_be_free(tmp_path: Path):
    (tmp_path / LOCK).write_text(json.dumps(HERE | {"pid": 1, "host": "elsewhere"}))
    with pytest.raises(ValueError, match="free after 60 s of silence"), held([tmp_path], "x"):
        pass


def test_a_holder_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "_BEAT", 0.001)
    path = tmp_path / LOCK
    with held([tmp_path], "fedjax-kd run"):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_of_many_at_once_one_alone_is_inside(tmp_path: Path):
    inside, most, times = [], [], []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(50):
            try:
                with held([tmp_path], "fedjax-kd resume"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    times.append(1)
            except ValueError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert times
    assert max(most) == 1
    assert list(tmp_path.iterdir()) == []
