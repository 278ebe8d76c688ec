# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host as sivshmd sees it (docs/protocol.md): a socket for each VM, a CA, a relay.

`hooks[(vm, method)]` replaces what is done with a request: a function of (host, vm, params) that
returns a result, raises Error, or returns NOTHING for no answer at all.
"""

import base64
import json
import os
import socket
import subprocess
import threading
import time

NOTHING = object()
CODES = {"NotAuthorized": -32001, "RefusedByHost": -32002, "RefusedByPeer": -32003, "NoSuchPeer": -32004,
         "PeerNotListening": -32005, "HandshakeFailed": -32006, "QuotaExceeded": -32007, "NoMemory": -32008,
         "HostUnavailable": -32009, "NotReady": -32010, "TimedOut": -32011, "Closed": -32012, "Revoked": -32013,
         "NoSuchObject": -32014, "Failed": -32000}


class Error(Exception):
    def __init__(self, name, text="as the test wants it", code=None):
        super().__init__(text)
        self.code, self.text = code or CODES[name], text


class Authority:
    """A CA made with the openssl command."""

    def __init__(self, folder, name="ca"):
        self.key, self.cert, self.folder = f"{folder}/{name}.key", f"{folder}/{name}.pem", folder
        self.lock, self.serial, self.closed = threading.Lock(), 0, False
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", self.key, "-out", self.cert, "-subj", f"/CN=test {name}", "-days", "2",
                        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"],
                       check=True, capture_output=True)
        self.pem = open(self.cert).read()

    def issue(self, csr, spiffe_id, days=1):
        with self.lock:
            if self.closed:
                raise Error("Closed")
            self.serial += 1
            extensions = f"{self.folder}/ext"
            with open(extensions, "w") as f:
                f.write(f"subjectAltName=critical,URI:{spiffe_id}\nkeyUsage=critical,digitalSignature\n"
                        "extendedKeyUsage=clientAuth,serverAuth\nbasicConstraints=critical,CA:FALSE\n")
            done = subprocess.run(["openssl", "x509", "-req", "-CA", self.cert, "-CAkey", self.key, "-days", str(days),
                                   "-set_serial", str(self.serial + 4096), "-extfile", extensions], input=csr.encode(),
                                  check=True, capture_output=True)
            return done.stdout.decode()

    def close(self):
        """Nothing is under way any more: its folder may go."""
        with self.lock:
            self.closed = True


class Connection:
    """One daemon's connection, frames and calls."""

    def __init__(self, host, vm, sock):
        self.host, self.vm, self.sock = host, vm, sock
        self.lock, self.calls, self.next_id = threading.Lock(), {}, 1000
        threading.Thread(target=self._read, daemon=True).start()

    def send_bytes(self, data):
        with self.lock:
            try:
                self.sock.sendall(data)
            except OSError:
                pass

    def send(self, message):
        self.send_bytes(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\0")

    def notify(self, method, **params):
        self.send({"method": method, "params": params})

    def call(self, method, timeout=10, **params):
        with self.lock:
            self.next_id += 1
            number = self.next_id
            waiter = self.calls[number] = [threading.Event(), None]
        self.send({"id": number, "method": method, "params": params})
        if not waiter[0].wait(timeout):
            raise Error("TimedOut", f"{method} was not answered")
        answer = waiter[1]
        if "error" in answer:
            raise Error(None, answer["error"]["message"], code=answer["error"]["code"])
        return answer["result"]

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _read(self):
        buffer = b""
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            buffer += data
            *frames, buffer = buffer.split(b"\0")
            for frame in frames:
                if frame:
                    self._take(json.loads(frame))
        self.sock.close()
        self.host.gone(self)

    def _take(self, message):
        if "method" in message:
            threading.Thread(target=self._serve, args=(message,), daemon=True).start()
        elif message["id"] in self.calls:
            waiter = self.calls.pop(message["id"])
            waiter[1] = message
            waiter[0].set()

    def _serve(self, message):
        try:
            result = self.host.request(self, message["method"], message["params"])
        except Error as e:
            if "id" in message:
                self.send({"id": message["id"], "error": {"code": e.code, "message": e.text}})
            return
        if "id" in message and result is not NOTHING:
            self.send({"id": message["id"], "result": result})


class FakeHost:
    def __init__(self, folder, domain="test.example"):
        self.folder, self.domain = folder, domain
        self.ca = Authority(folder)
        self.lock = threading.RLock()
        self.kernels, self.paths, self.servers = {}, {}, {}
        self.connections, self.listening, self.sessions, self.log = {}, {}, {}, []
        self.hooks, self.epochs = {}, {}
        self.channels = []  # ((vm, slot, generation), (vm, slot, generation)) that exist
        self.time_shift = 2  # certificates begin now, and may not be of the future

    def add_vm(self, vm, kernel):
        path = self.paths[vm] = f"{self.folder}/{vm}.control"
        self.kernels[vm] = kernel
        self.listening[vm] = set()
        self.start_listening(vm)
        return path

    def start_listening(self, vm):
        path = self.paths[vm]
        if os.path.exists(path):
            os.unlink(path)
        server = self.servers[vm] = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(4)
        threading.Thread(target=self._accept, args=(vm, server), daemon=True).start()

    def stop_listening(self, vm):
        """The host goes away for one VM."""
        os.unlink(self.paths[vm])
        server = self.servers.pop(vm)
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        if vm in self.connections:
            self.connections[vm].close()

    def stop(self):
        for vm in list(self.servers):
            self.stop_listening(vm)
        self.ca.close()

    def _accept(self, vm, server):
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            with self.lock:
                self.connections[vm] = Connection(self, vm, sock)

    def gone(self, connection):
        with self.lock:
            if self.connections.get(connection.vm) is connection:
                del self.connections[connection.vm]
                self.forget(connection.vm)

    def forget(self, vm):
        """Sessions and listeners of one VM."""
        with self.lock:
            self.epochs[vm] = self.epochs.get(vm, 0) + 1
            self.listening[vm].clear()
            for number in [n for n, s in self.sessions.items() if vm in (s["a"], s["b"])]:
                session = self.sessions.pop(number)
                other = session["b"] if session["a"] == vm else session["a"]
                if other in self.connections and other != vm:
                    self.connections[other].notify("Abort", session=number,
                                                   error={"code": CODES["Closed"], "message": "peer left"})
                self.withdraw(session)

    def methods(self, vm=None):
        return [m for v, m, _ in self.log if vm in (None, v)]

    def params(self, vm, method):
        return [p for v, m, p in self.log if v == vm and m == method]

    def request(self, connection, method, params):
        vm = connection.vm
        with self.lock:
            self.log.append((vm, method, params))
        hook = self.hooks.get((vm, method))
        if hook:
            epoch = self.epochs.get(vm)
            result = hook(self, vm, params)
            if result is not None:
                return result
            if method != "Hello" and epoch != self.epochs.get(vm):
                return NOTHING  # of a time before Hello
        return getattr(self, "on_" + method)(connection, vm, params)

    def id_of(self, vm, service):
        return f"spiffe://{self.domain}/vm/{vm}/service/{service}"

    def on_Hello(self, connection, vm, params):
        self.forget(vm)
        exists = {(c["slot"], c["generation"]) for c in params["channels"]}
        with self.lock:
            for pair in list(self.channels):
                for v, slot, generation in pair:
                    if v == vm and (slot, generation) not in exists:
                        self.released(v, slot, generation)
        return {"version": 1, "nonce": params["nonce"], "vm": vm, "trustDomain": self.domain,
                "timeUSec": int((time.time() + self.time_shift) * 1e6), "maxFrame": 131072,
                "random": base64.b64encode(os.urandom(64)).decode(), "trustBundle": self.ca.pem}

    def on_IssueCertificate(self, connection, vm, params):
        certificate = self.ca.issue(params["csr"], self.id_of(vm, params["service"]))
        return {"certificate": certificate, "notAfter": int(time.time()) + 86400}

    def on_Listen(self, connection, vm, params):
        self.listening[vm].add(params["service"])
        return {}

    def on_Unlisten(self, connection, vm, params):
        self.listening[vm].discard(params["service"])
        return {}

    def on_Connect(self, connection, vm, params):
        to_vm, to_service = params["to"].split("/")
        if to_vm not in self.kernels:
            raise Error("NoSuchPeer")
        if to_service not in self.listening[to_vm]:
            raise Error("PeerNotListening")
        number = os.urandom(16).hex()
        session = self.sessions[number] = {
            "a": vm, "b": to_vm, "from": f"{vm}/{params['from']}", "to": params["to"], "ring": params["ringSize"],
            "service_a": params["from"], "service_b": to_service, "grants": [], "opened": set()}
        try:
            answer = self.connections[to_vm].call("Incoming", session=number, to=to_service, flight=params["flight"],
                                                  ringSize=params["ringSize"], **{"from": session["from"]})
        except Error:
            self.sessions.pop(number, None)
            raise
        return {"session": number, "flight": answer["flight"]}

    def on_Confirm(self, connection, vm, params):
        session = self.sessions.get(params["session"])
        if not session:
            raise Error("Closed")
        try:
            end = self.connections[session["b"]].call("Finish", session=params["session"], flight=params["flight"])
        except Error:
            self.sessions.pop(params["session"], None)
            raise
        assert params["peer"] == self.id_of(session["b"], session["service_b"])
        assert end["peer"] == self.id_of(session["a"], session["service_a"])
        assert end["exporter"] == params["exporter"], "exporters differ"
        return self.allocate(params["session"], session)

    def allocate(self, number, session):
        with self.lock:
            if number not in self.sessions:  # cancelled meanwhile
                raise Error("Closed")
            channel_id = bytes.fromhex(number)
            a, b = session["a"], session["b"]
            slot_a = self.kernels[a].grant(session["service_a"], b, session["service_b"], session["ring"], channel_id)
            slot_b = self.kernels[b].grant(session["service_b"], a, session["service_a"], session["ring"], channel_id)
            session["grants"] = [(a, *slot_a), (b, *slot_b)]
            self.channels.append(tuple(session["grants"]))
        self.connections[b].notify("Granted", session=number, slot=slot_b[0], generation=slot_b[1])
        return {"slot": slot_a[0], "generation": slot_a[1]}

    def on_Opened(self, connection, vm, params):
        session = self.sessions.get(params["session"])
        if not session:
            return
        session["opened"].add(vm)
        if session["opened"] == {session["a"], session["b"]}:
            self.sessions.pop(params["session"], None)

    def withdraw(self, session):
        for vm, slot, generation in session["grants"]:
            self.kernels[vm].withdraw(slot, generation)
        self.drop_free()

    def on_Cancel(self, connection, vm, params):
        with self.lock:
            session = self.sessions.pop(params["session"], None)
            if session:
                self.withdraw(session)
                other = session["b"] if session["a"] == vm else session["a"]
                if other in self.connections:
                    self.connections[other].notify("Abort", session=params["session"],
                                                   error={"code": CODES["Closed"], "message": "the peer cancelled"})
        return {}

    def on_Released(self, connection, vm, params):
        self.released(vm, params["slot"], params["generation"])
        return {}

    def released(self, vm, slot, generation):
        """One end is free: the other drains, and when both are, the channel is gone."""
        with self.lock:
            if slot >= len(self.kernels[vm].grants):
                return
            self.kernels[vm].free(slot, generation)
            for pair in self.channels:
                if (vm, slot, generation) in pair:
                    for other in pair:
                        if other != (vm, slot, generation):
                            self.kernels[other[0]].drain(*other[1:])
            self.drop_free()

    def drop_free(self):
        def is_free(vm, slot, generation):
            g = self.kernels[vm].grants[slot]
            return g.state == 0 or g.generation != generation
        self.channels = [pair for pair in self.channels if not all(is_free(*end) for end in pair)]

    def revoke(self, pair, reason="the test wants it"):
        for vm, slot, generation in pair:
            self.kernels[vm].withdraw(slot, generation)
            if vm in self.connections:
                self.connections[vm].notify("Revoked", slot=slot, generation=generation, reason=reason)
