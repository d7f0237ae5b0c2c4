"""What stands around a program in the sandbox. Run as a script, with the standard library alone; see ``sandbox``."""

import ctypes
import io
import json
import os
import resource
import sys

WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # Landlock's rights to write, remove and make
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture since 5.13
NO_NEW_PRIVILEGES = 38
REFUSED_MODULES = ("_posixsubprocess", "_ctypes", "ctypes", "_multiprocessing", "pty", "_xxsubinterpreters")
REFUSED_EVENTS = (
    "socket.", "subprocess.", "ctypes.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "os.kill",
    "os.putenv", "os.unsetenv", "pty.", "resource.setrlimit", "resource.prlimit", "signal.pthread_kill", "fcntl.", "sys.remote_exec",
    "os.chroot", "os.setns", "os.unshare", "syslog.", "winreg.", "cpython._PySys_ClearAuditHooks", "gc.get_objects", "gc.get_referrers",
)  # fmt: skip
CHANGES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime",
    "os.setxattr", "os.removexattr", "os.chflags", "os.lockf", "os.mkfifo", "os.mknod", "shutil.",
)  # fmt: skip


def landlock(folder: str | None) -> bool:
    """Confines this process's writes to a folder (none: only asks whether it could); False where the kernel cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(CREATE_RULESET, None, 0, 1) < 1:
        return False
    if folder is None:
        return True
    handled = ctypes.c_uint64(WRITES)
    rules = library.syscall(CREATE_RULESET, ctypes.byref(handled), 8, 0)
    inside = os.open(folder, os.O_PATH)
    rule = WRITES.to_bytes(8, sys.byteorder) + inside.to_bytes(4, sys.byteorder)
    library.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = library.syscall(ADD_RULE, rules, 1, rule, 0) == 0 and library.syscall(RESTRICT_SELF, rules, 0) == 0
    os.close(inside)
    os.close(rules)
    return done


def hook(folder: str):
    """An audit hook that refuses what the sandbox forbids."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    root = os.path.realpath(folder) + os.sep
    realpath, fspath, fsdecode, refused_events, changes, refused_modules = (
        os.path.realpath, os.fspath, os.fsdecode, REFUSED_EVENTS, CHANGES, REFUSED_MODULES,
    )  # fmt: skip

    def outside(path) -> bool:
        return isinstance(path, int) or not (realpath(fsdecode(fspath(path))) + os.sep).startswith(root)

    def audit(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & writing and outside(path):
                raise PermissionError(f"sandbox: no writing to {path}")
        elif event == "import":
            if arguments[0] in refused_modules:
                raise PermissionError(f"sandbox: no module {arguments[0]}")
        elif event.startswith(refused_events):
            raise PermissionError(f"sandbox: no {event}")
        elif event.startswith(changes) and any(isinstance(a, (str, bytes, os.PathLike)) and outside(a) for a in arguments):
            raise PermissionError(f"sandbox: no {event} outside its folder")

    return audit


def limit(seconds: float, memory_bytes: int) -> None:
    """Sets what the kernel counts."""
    cpu = int(seconds) + 1
    for what, most in (
        (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_FSIZE, 16 << 20), (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 0),
    ):  # fmt: skip
        resource.setrlimit(what, (most, most))


def main() -> None:
    """Reads the program from standard input, shuts the doors, runs it, and proves that it came to its end."""
    told = json.loads(sys.stdin.buffer.read())
    answer, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    if told["landlock"] and not landlock(told["folder"]):
        sys.exit("Landlock was there and would not hold")
    write, stop, proof = os.write, os._exit, told["proof"].encode()
    for name in ("ctypes", "_ctypes", "resource"):
        sys.modules.pop(name, None)
    audit = hook(told["folder"])
    limit(told["seconds"], told["memory_bytes"])
    sys.addaudithook(audit)
    try:
        exec(compile(told.pop("program"), "program", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    except BaseException as error:
        kind = "refused" if isinstance(error, PermissionError) and str(error).startswith("sandbox: ") else "failed"
        try:
            text = " ".join(str(error).split())[:300]
        except BaseException:  # an exception whose __str__ raises
            text = ""
        write(answer, f"{kind}: {type(error).__name__}: {text}".encode("utf-8", "replace"))
        stop(1)
    write(answer, proof)
    stop(0)


if __name__ == "__main__":
    if sys.argv[1:] == ["--landlock"]:
        sys.exit(0 if landlock(None) else 1)
    main()
