"""Handlers that misbehave, for tests of the runner process."""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from auditor.contracts.jobs import Progress
from auditor.errors import RefusedFile

CLONE = 56 if platform.machine() == "x86_64" else 220


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


def do_trespass(unit, workspace, session):
    """Try what no unit may do; returns what came of each."""
    private = Path(str(unit.params["private"]))
    return {
        "program": _outcome(lambda: subprocess.run(["/bin/true"], check=True)),
        "leaving its group": _outcome(lambda: subprocess.run(["/bin/true"], check=True, start_new_session=True)),
        "program in its place": _outcome(lambda: os.execv("/bin/nothing", ["nothing"])),  # noqa: S606
        "copy of itself": _outcome(_fork),
        "copy, asked otherwise": _outcome(lambda: _call(CLONE, signal.SIGCHLD)),
        "database by a child": _outcome(lambda: subprocess.run(["/bin/cat", private / "auditor.db"], check=True)),  # noqa: S603
        "own file": _outcome(lambda: workspace.output("mine").write_text("x")),
        "cache": _outcome(lambda: (workspace.cache / "entry").write_text("x")),
        "another team's cache": _outcome(lambda: (workspace.cache.parent / "other" / "entry").write_text("x")),
        "what another team cached": _outcome(lambda: (workspace.cache.parent / "other" / "model").read_text()),
        "own place": _outcome(lambda: (private / "place" / "model").read_text()),
        "library": _outcome(lambda: Path(json.__file__).read_text()),
        "database": _outcome(lambda: (private / "auditor.db").read_text()),
        "secret": _outcome(lambda: Path(str(unit.params["secret"])).read_text()),
        "write elsewhere": _outcome(lambda: Path(str(unit.params["elsewhere"])).write_text("x")),
        "shared memory": _outcome(lambda: Path(f"/dev/shm/auditor-{os.getpid()}").write_text("x")),  # noqa: S108
        "device": _outcome(lambda: Path("/dev/null").write_text("x")),
        "rights of a file": _outcome(lambda: (private / "auditor.db").chmod(0o666)),
        "owner of a file": _outcome(lambda: os.chown(private / "auditor.db", os.getuid(), os.getgid())),
        "pair of sockets": _outcome(lambda: [end.close() for end in socket.socketpair()]),
        "datagram": _outcome(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
        "signal to the parent": _outcome(lambda: os.kill(os.getppid(), 0)),
        "signal to itself": _outcome(lambda: [os.kill(os.getpid(), 0), signal.raise_signal(signal.SIGCONT)]),
        "socket": _outcome(lambda: socket.socket(socket.AF_INET)),
        "socket of another thread": _in_thread(lambda: socket.socket(socket.AF_INET6)),
        "local connection": _outcome(lambda: socket.socket(socket.AF_UNIX).connect("/nowhere")),
        "trace": _outcome(lambda: _call(101 if platform.machine() == "x86_64" else 117)),
        "capabilities": Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0],
        "core dump": resource.getrlimit(resource.RLIMIT_CORE)[0],
    }


def _outcome(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    except subprocess.CalledProcessError as error:
        return f"exit {error.returncode}"
    return "done"


def _fork():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _in_thread(act):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_outcome, act).result()


def _call(number, first=0):
    answer = ctypes.CDLL(None, use_errno=True).syscall(number, first, 0, 0, 0)
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")
    if number == CLONE and answer == 0:
        os._exit(0)


def do_gradients(unit, workspace, session):
    import torch

    device = torch.device(session.device)
    images = torch.rand(4, 3, 16, 16, device=device, requires_grad=True)
    torch.nn.Conv2d(3, 8, 3, device=device)(images).square().sum().backward()
    return {"device": images.grad.device.type, "finite": bool(images.grad.isfinite().all())}


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
