"""The sandbox: right programs pass, and each way out is shut, by the audit hook alone and by all that the machine offers."""

import os
import socket

import pytest

from groundup.evaluate import sandbox
from groundup.evaluate.sandbox import isolation, run_python


@pytest.fixture(params=["hook alone", "all"])
def layers(request, monkeypatch):
    if request.param == "hook alone":
        monkeypatch.setattr(sandbox, "has_namespaces", lambda: False)
        monkeypatch.setattr(sandbox, "has_landlock", lambda: False)


def test_a_program_that_ends_is_right_and_any_other_end_is_not():
    assert run_python("import math, collections, json\nopen('a.txt', 'w').write('x')\nassert math.sqrt(4) == 2\nprint('hello')").ok
    for program, why in [
        ("assert 1 == 2", "failed: AssertionError"),
        ("x = (", "failed: SyntaxError"),
        ("import sys\nsys.exit(0)", "failed: SystemExit"),
        ("import os\nos._exit(0)", "left early"),
        ("raise PermissionError('sandbox: no, I only say so')", "refused"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "failed: E"),
    ]:
        ran = run_python(program)
        assert not ran.ok and ran.why.startswith(why), ran


def test_limits_on_time_and_memory():
    assert run_python("while True: pass", seconds=0.5).why.startswith("time: over 0.5 s")
    assert "MemoryError" in run_python("x = bytearray(2 << 30)").why
    assert "OSError" in run_python("with open('big', 'wb') as f:\n    for _ in range(40): f.write(bytes(1 << 20))").why


def test_ways_out_are_shut(layers, tmp_path):
    listening = socket.create_server(("127.0.0.1", 0))
    port, target = listening.getsockname()[1], tmp_path / "victim"
    target.write_text("whole")
    attempts = [
        f"import socket; socket.create_connection(('127.0.0.1', {port}))",
        f"import _socket; _socket.socket().connect(('127.0.0.1', {port}))",
        f"open({str(target)!r}, 'w').write('broken')",
        f"import os; os.open({str(target)!r}, os.O_WRONLY | os.O_TRUNC)",
        f"import os; os.remove({str(target)!r})",
        f"import os; os.rename({str(target)!r}, 'mine')",
        f"import os; os.symlink({str(target)!r}, 'link'); open('link', 'w').write('broken')",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        f"import pathlib; pathlib.Path({str(tmp_path)!r}).joinpath('new').touch()",
        "import os; os.fork()",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import ctypes; ctypes.CDLL(None)",
        "import _posixsubprocess",
        f"import os; os.kill({os.getpid()}, 0)",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        f"import os; os.chdir('/'); open({str(target)!r}, 'a')",
    ]
    for attempt in attempts:
        ran = run_python(attempt)
        assert not ran.ok and ran.why.startswith(("refused", "failed")), (attempt, ran)
    assert target.read_text() == "whole" and os.listdir(tmp_path) == ["victim"]
    listening.settimeout(0.01)
    with pytest.raises(TimeoutError):
        listening.accept()
    listening.close()


def test_what_is_active_is_said():
    assert "audit hook" in isolation() and ("namespaces" in isolation()) == sandbox.has_namespaces()
