# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a QEMU process that was taken over does on the host, as the user that it is started as: reads one JSON object
from standard input, writes {act: "done", or what stopped it}.

    {"do": ["look", "write", ...], "runtime": DIR, "me": VM, "peer": VM, "region": NAME, "pids": [...], "qemu": PID}
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
PAGE, MARK = 4096, b"written by another"
PTRACE_SEIZE, PIDFD_OPEN, PIDFD_GETFD = 0x4206, 434, 438
NAME_TO_HANDLE_AT, OPEN_BY_HANDLE_AT = 303, 304
PUNCH_HOLE, MADV_REMOVE = 3, 9  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def check(result):
    """libc's way to fail as an exception."""
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "")
    return result


def outcome(act, *arguments):
    try:
        said = act(*arguments)
        return said if isinstance(said, str) else "done"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except EOFError:
        return "EOF"


# files

def write_through(fd):
    assert os.pwrite(fd, MARK, PAGE) == len(MARK)
    os.close(fd)


def open_and_write(path, flags):
    fd = os.open(path, flags)
    if os.fstat(fd).st_size >= PAGE:
        write_through(fd)


def reopen(path, through, flags=os.O_RDONLY):
    fd = os.open(path, flags)
    open_and_write(f"{through}/{fd}", os.O_RDWR)


def by_map(fd, first, then=None, poke=None):
    address = check(libc.mmap(None, PAGE, first, mmap.MAP_SHARED, fd, PAGE))
    if then is not None:
        check(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), then))
    if poke:
        poke(address)
    else:
        ctypes.memmove(address, MARK, len(MARK))


def poke_memory(address):
    """A debugger writes where the program itself may not."""
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        memory.write(MARK)


def poke_remove(address):
    check(libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), MADV_REMOVE))


def from_pipe(fd):
    read, write = os.pipe()
    os.write(write, MARK)
    os.splice(read, fd, len(MARK), offset_dst=PAGE)


def from_file(fd, path, how):
    source = os.open(path, os.O_RDONLY)
    os.lseek(fd, PAGE, os.SEEK_SET)
    how(source, fd)
    os.close(source)


def by_handle(path):
    handle, mount = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136), ctypes.c_int()
    check(libc.syscall(NAME_TO_HANDLE_AT, -100, path.encode(), handle, ctypes.byref(mount), 0))
    parent = os.open(os.path.dirname(path), os.O_PATH)
    write_through(check(libc.syscall(OPEN_BY_HANDLE_AT, parent, handle, os.O_RDWR)))


def write_acts(path, mode):
    """Every way to change a file; mode is how it may be opened at all."""
    rw, r = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ
    best = r if mode == os.O_RDONLY else rw

    def on_fd(act, *arguments):
        fd = os.open(path, mode)
        try:
            return act(fd, *arguments)
        finally:
            os.close(fd)
    return {
        "open read-write": lambda: open_and_write(path, os.O_RDWR),
        "open write-only": lambda: open_and_write(path, os.O_WRONLY),
        "open to append": lambda: open_and_write(path, os.O_RDWR | os.O_APPEND),
        "reopen by /proc/self/fd": lambda: reopen(path, "/proc/self/fd"),
        "reopen by /dev/fd": lambda: reopen(path, "/dev/fd"),
        "reopen an O_PATH": lambda: reopen(path, "/proc/self/fd", os.O_PATH),
        "open by handle": lambda: by_handle(path),
        "write": lambda: on_fd(lambda fd: os.pwrite(fd, MARK, PAGE)),
        "map to write": lambda: on_fd(by_map, rw),
        "map, then mprotect": lambda: on_fd(by_map, r, rw),
        "map, then /proc/self/mem": lambda: on_fd(by_map, best, None, poke_memory),
        "map, then MADV_REMOVE": lambda: on_fd(by_map, best, None, poke_remove),
        "splice": lambda: on_fd(from_pipe),
        "sendfile": lambda: on_fd(from_file, path, lambda source, fd: os.sendfile(fd, source, 0, len(MARK))),
        "copy_file_range": lambda: on_fd(from_file, path, lambda source, fd: os.copy_file_range(source, fd, len(MARK))),
        "punch a hole": lambda: on_fd(lambda fd: check(libc.fallocate(fd, PUNCH_HOLE, ctypes.c_long(PAGE),
                                                                      ctypes.c_long(PAGE)))),
        "fallocate": lambda: on_fd(lambda fd: os.posix_fallocate(fd, 0, 2 * PAGE)),
        "fchmod": lambda: on_fd(lambda fd: os.fchmod(fd, 0o666)),
        "chmod": lambda: os.chmod(path, 0o666),
        "fchown": lambda: on_fd(lambda fd: os.fchown(fd, os.getuid(), -1)),
        "chown": lambda: os.chown(path, os.getuid(), -1),
        "set an ACL": lambda: os.setxattr(path, "system.posix_acl_access", struct.pack(
            "<IHHIHHIHHI", 2, 1, 6, 0xffffffff, 4, 6, 0xffffffff, 0x20, 6, 0xffffffff)),
        "touch": lambda: os.utime(path),
        "lease": lambda: on_fd(lambda fd: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK if mode == os.O_RDONLY
                                                      else fcntl.F_WRLCK)),
        "ftruncate": lambda: on_fd(os.ftruncate, 2 * PAGE),
        "truncate": lambda: os.truncate(path, 2 * PAGE),
        "open to truncate": lambda: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
    }


def places(order):
    root, me, peer, region = (order[key] for key in ("runtime", "me", "peer", "region"))
    return {"own vm": f"{root}/vm/{me}", "peer's vm": f"{root}/vm/{peer}", "region": f"{root}/region/{region}",
            "vm": f"{root}/vm", "all regions": f"{root}/region", "runtime": root}


def readable(order):
    """What it may read: its own grant table, its peer's section."""
    where = places(order)
    return {"grant table": f"{where['own vm']}/grants", "peer's section": f"{where['region']}/{order['peer']}"}


def read_whole(path):
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 64)


def read(order):
    return {name: outcome(read_whole, path) for name, path in readable(order).items()}


def write(order):
    return {f"{name}: {act}": outcome(do) for name, path in readable(order).items()
            for act, do in write_acts(path, os.O_RDONLY).items()}


def write_own(order):
    """The same with a file of its own: each act is one that can be done."""
    done, path = {}, order["file"]
    for act in write_acts(path, os.O_RDWR):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(fd, 4 * PAGE)
        os.close(fd)
        done[act] = outcome(write_acts(path, os.O_RDWR)[act])
        os.unlink(path)
    return done


def look(order):
    """At what is another's: folders, tables, sections, keys."""
    where = places(order)
    theirs = where["peer's vm"]
    done = {f"list {name}": outcome(os.listdir, path) for name, path in where.items() if name != "own vm"}
    files = [f"{where[folder]}/{name}" for folder, name in order.get("files", [])]
    files += [f"{theirs}/grants", *order.get("paths", [])]
    done.update({f"open {path}": outcome(read_whole, path) for path in files})
    done["stat a socket"] = outcome(os.stat, f"{theirs}/control.sock")
    return done


def bind(path):
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).bind(path)


def plant(order):
    """Things of its own where the daemon or another QEMU opens something; and theirs taken away."""
    done = {}
    for name, path in places(order).items():
        new = f"{path}/planted"
        acts = {"file": lambda: os.close(os.open(new, os.O_WRONLY | os.O_CREAT, 0o666)),
                "folder": lambda: os.mkdir(new), "symlink": lambda: os.symlink("/etc/passwd", new),
                "link to the peer's section": lambda: os.link(readable(order)["peer's section"], new),
                "socket": lambda: bind(new), "fifo": lambda: os.mkfifo(new),
                "chmod": lambda: os.chmod(path, 0o777)}
        for victim in ("grants", "control.sock", f"{order['region']}.sock", order["peer"]):
            acts[f"unlink {victim}"] = lambda victim=victim: os.unlink(f"{path}/{victim}")
            acts[f"exchange {victim}"] = lambda victim=victim: os.rename(order["file"], f"{path}/{victim}")
        acts["rename"] = lambda: os.rename(path, path + "2")
        for act, do in acts.items():
            open(order["file"], "w").close()
            done[f"{act} in {name}"] = outcome(do)
            if act in ("file", "folder", "symlink", "socket", "fifo") and done[f"{act} in {name}"] == "done":
                os.rename(new, f"{new}.{act}")
        for target in ("grants", order["peer"]):
            done[f"link {target} of {name} elsewhere"] = outcome(os.link, f"{path}/{target}", order["file"] + ".link")
    return done


# sockets

def knock(path, send=None):
    """Connects, perhaps says something, and waits for the first byte."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(path)
        try:
            if send:
                sock.sendall(send)
            if not sock.recv(8):
                raise EOFError
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None


HELLO = b'\0{"jsonrpc":"2.0","id":1,"method":"Hello","params":{"version":1,"nonce":"' + b"00" * 16 + \
    b'","bootId":"00000000-0000-4000-8000-000000000000","channels":[]}}\0'


def sockets_of(order, which):
    where = places(order)[which]
    return {"control": outcome(knock, f"{where}/control.sock"),
            "control, with Hello": outcome(knock, f"{where}/control.sock", HELLO),
            "device": outcome(knock, f"{where}/{order['region']}.sock")}


def peer_sockets(order):
    return sockets_of(order, "peer's vm")


def own_sockets(order):
    return sockets_of(order, "own vm")


# processes

def processes(order):
    """Other processes of the host: QEMUs of other VMs, the daemon."""
    done = {}
    for name, pid in order["pids"].items():
        word = ctypes.create_string_buffer(8)
        vector = struct.pack("QQ", ctypes.addressof(word), 8)
        acts = {"list its fds": lambda: os.listdir(f"/proc/{pid}/fd"), "open its memory": lambda: os.open(
                    f"/proc/{pid}/mem", os.O_RDWR),
                "attach to it": lambda: check(libc.ptrace(PTRACE_SEIZE, pid, None, None)),
                "write to it": lambda: check(libc.process_vm_writev(pid, vector, 1, vector, 1, 0)),
                "take its fds": lambda: check(libc.syscall(PIDFD_GETFD, check(libc.syscall(PIDFD_OPEN, pid, 0)), 0, 0)),
                "signal it": lambda: os.kill(pid, 0)}
        done.update({f"{name}: {act}": outcome(do) for act, do in acts.items()})
    return done


def write_back(fd):
    """Writes what is there."""
    os.pwrite(fd, os.pread(fd, 16, 0), 0)


def through_qemu(order):
    """What its QEMU has open of the runtime folder: each fd opened again to write, and taken and written to."""
    done, pid = {}, order["qemu"]
    pidfd = check(libc.syscall(PIDFD_OPEN, pid, 0))
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = os.readlink(f"/proc/{pid}/fd/{name}")
        if not path.startswith(order["runtime"]) and path not in order["writable"]:
            continue
        done[f"reopen {path}"] = outcome(open_and_write, f"/proc/{pid}/fd/{name}", os.O_RDWR)
        fd = check(libc.syscall(PIDFD_GETFD, pidfd, int(name), 0))
        done[f"write to {path}"] = outcome(write_back, fd)
        done[f"seal {path}"] = outcome(fcntl.fcntl, fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        if path not in order["writable"]:
            done[f"map {path}"] = outcome(by_map, fd, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
    return done


def main():
    order = json.loads(sys.stdin.readline())
    print(json.dumps({do: globals()[do](order) for do in order["do"]}), flush=True)


main()
