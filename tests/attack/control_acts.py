# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a hostile guest writes to its control port. Runs in a guest too, and then needs nothing of the tree:

    python3 control_acts.py PORT NAME SECONDS    one act again and again; prints bytes written and answers read
    python3 control_acts.py PORT hello 0         a proper Hello by hand; prints the answer
"""

import json
import os
import select
import sys
import time
from collections import namedtuple

Act = namedtuple("Act", "kind frame")


def call(method, ident=1, **params):
    return json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode() + b"\0"


def hello(ident=1, channels=()):
    return call("Hello", ident, version=1, nonce="00" * 16, bootId="00000000-0000-4000-8000-000000000000",
                channels=list(channels))


ACTS = {
    "no json": Act("garbage", b"\x7fELF no json at all {\0"),
    "half json": Act("garbage", b'{"jsonrpc":"2.0","id":1,"method":"Hello","params":{"a":\0'),
    "deep": Act("garbage", b'{"jsonrpc":"2.0","id":1,"method":"Hello","params":' + b"[" * 100_000 + b"\0"),
    "deep objects": Act("garbage", b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"\0"),
    "huge number": Act("garbage", b'{"jsonrpc":"2.0","id":' + b"9" * 100_000 + b',"method":"Hello","params":{}}\0'),
    "huge exponent": Act("garbage", b'{"jsonrpc":"2.0","id":1e999999999,"method":"Hello","params":{}}\0'),
    "huge name": Act("garbage", b'{"jsonrpc":"2.0","id":1,"method":"' + b"H" * 100_000 + b'","params":{}}\0'),
    "huge member": Act("garbage", b'{"jsonrpc":"2.0","id":1,"method":"Hello","' + b"m" * 100_000 + b'":1,"params":{}}\0'),
    "many members": Act("garbage", b"{" + b",".join(b'"%d":1' % i for i in range(10_000)) + b"}\0"),
    "no utf-8": Act("garbage", b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe\xc0\x80","params":{}}\0'),
    "too long": Act("garbage", b'{"jsonrpc":"2.0","id":1,"method":"Hello","params":{"a":"' + b"x" * 200_000 + b'"}}\0'),
    "unknown methods": Act("garbage", call("Nonsense")),
    "hello": Act("valid", hello()),
    "hello with all slots": Act("valid", hello(channels=[{"slot": i, "generation": 1} for i in range(256)])),
    "listen": Act("valid", call("Listen", service="sensor")),
    "bad requests": Act("garbage", call("IssueCertificate", service="sensor", csr="none " * 1000)),
    "released": Act("valid", call("Released", slot=3, generation=7)),
    "refused": Act("valid", call("Listen", service="dashboard")),
    "answers to nothing": Act("valid", b'{"jsonrpc":"2.0","id":4,"result":{}}\0'),
    "large answers": Act("valid", b'{"jsonrpc":"2.0","id":4,"result":{' + b",".join(b'"%d":1' % i for i in range(10_000)) + b"}}\0"),
    "nothing": Act("valid", bytes(1000)),
    "endless": Act("endless", b"x" * 65536),
    "unread": Act("unread", hello() * 200),
}


class Port:
    """The virtio port by hand. The kernel gives EPIPE or EAGAIN while nobody is at the host's end."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.written = self.answers = self.away = 0

    def write(self, data, end):
        while data and time.monotonic() < end:
            try:
                n = os.write(self.fd, data)
                self.written += n
                data = data[n:]
            except BlockingIOError:
                select.select([], [self.fd], [], 0.01)
            except OSError:
                self.away += 1
                time.sleep(0.01)

    def read(self):
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:
            return b""
        self.answers += data.count(b"\0")
        return data

    def flood(self, act, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.write(act.frame, end)
            if act.kind != "unread":
                self.read()

    def hello(self, timeout=20):
        """What a new daemon does: NUL, Hello, and everything before the answer is dropped."""
        end, seen = time.monotonic() + timeout, b""
        while time.monotonic() < end:
            self.write(b"\0" + hello(4711), end)
            again = time.monotonic() + 2
            while time.monotonic() < again:
                seen += self.read()
                for frame in seen.split(b"\0"):
                    if b'"id":4711' in frame.replace(b" ", b"") and b"trustDomain" in frame:
                        return json.loads(frame)
                select.select([self.fd], [], [], 0.05)
        raise SystemExit(f"no answer to Hello; the last bytes: {seen[-500:]!r}")


def main():
    path, name, seconds = sys.argv[1:]
    port = Port(path)
    if name == "hello by hand":
        print(json.dumps(port.hello()))
        return
    port.flood(ACTS[name], float(seconds))
    print(json.dumps({"written": port.written, "answers": port.answers, "away": port.away}))


if __name__ == "__main__":
    main()
