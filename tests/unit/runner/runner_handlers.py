"""Handlers that misbehave, for tests of the runner process."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from auditor.contracts.jobs import Progress
from auditor.errors import RefusedFile


def table():
    return {name: function for name, function in globals().items() if name.startswith("do_")}


def do_good(unit, workspace, session):
    data = workspace.input("in.txt").read_bytes()
    workspace.output("out.txt").write_bytes(data.upper())
    for step in range(1000):
        session.tick("step", step + 1, 1000)
    session.log("half-way")
    return {"size": len(data), "params": unit.params}


def do_environment(unit, workspace, session):
    return {
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        "torch": "torch" in sys.modules,
        "path": sys.path,
        "pid": os.getpid(),
        "imported": unit.params.get("module") in sys.modules,
    }


def do_noisy(unit, workspace, session):
    print("python prints")  # noqa: T201
    os.write(1, b"C prints\n")
    subprocess.run(["/bin/echo", "a child prints"], check=True)
    return {}


def do_refuse(unit, workspace, session):
    raise RefusedFile(["one", "two"], remedy="convert it")


def do_defect(unit, workspace, session):
    print("shortly before the end", file=sys.stderr)  # noqa: T201
    return {"x": {}["missing"]}


def do_nan(unit, workspace, session):
    return {"value": object()}


def do_full_disk(unit, workspace, session):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class OutOfMemoryError(RuntimeError):
    """Called like torch's."""


def do_gpu_memory(unit, workspace, session):
    raise OutOfMemoryError("CUDA out of memory")


def do_exit(unit, workspace, session):
    print("last words", file=sys.stderr)  # noqa: T201
    os._exit(7)


def do_die(unit, workspace, session):
    print("last words", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def do_break_protocol(unit, workspace, session):
    print("why I did it", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    os.write(int(unit.params["descriptor"]), b"this is not JSON\n")
    time.sleep(60)


def do_long_line(unit, workspace, session):
    os.write(int(unit.params["descriptor"]), b"x" * (9 << 20))
    time.sleep(60)


def do_cpu_memory(unit, workspace, session):
    import torch

    return {"size": len(torch.empty(2**45))}


def do_memory(unit, workspace, session):
    return {"size": len(bytearray(4 << 30))}


def do_hang(unit, workspace, session):
    """Start a grandchild, say so, and ignore every polite request."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen(["/bin/sleep", "600"])
    session.send(Progress(stage=f"{os.getpid()} {grandchild.pid}", done=0, total=1))
    time.sleep(600)


def do_polite(unit, workspace, session):
    session.send(Progress(stage="waiting", done=0, total=1))
    session.stopped.wait(60)
    workspace.output("stopped.txt").write_text(str(session.stopped.is_set()))
    return {}


def do_context(unit, workspace, session):
    ctx = session.context()
    return {"device": str(ctx.device), "seed": ctx.seed, "batch_size": ctx.batch_size, "bf16": ctx.autocast_bf16}
