#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of sivshmd that carry descriptors although no argument is one: a bus lets them through, and who gets such a
message has them open as long as it keeps it. Accept is a call that waits.

    fd-flood.py ADDRESS SERVICE...      listens as each, and accepts 64 times with 16 descriptors

Prints {name of an error: how many}; "waits" for calls without an answer after five seconds.
"""

import collections
import json
import os
import resource
import sys
import time

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

CALLS, FDS = 64, 16


def connect(address):
    flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
    connection = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
    connection.set_exit_on_close(False)
    return connection


def listen(connection, service):
    options = {"Backlog": GLib.Variant("u", CALLS)}
    return connection.call_sync("org.sivshm1", "/org/sivshm1", "org.sivshm1.Manager", "Listen",
                                GLib.Variant("(sa{sv})", (service, options)), None, 0, 20_000, None).unpack()[0]


def accept_with_fds(path, fd):
    message = Gio.DBusMessage.new_method_call("org.sivshm1", path, "org.sivshm1.Listener", "Accept")
    message.set_body(GLib.Variant("(a{sv})", ({},)))
    fds = Gio.UnixFDList.new()
    for _ in range(FDS):
        fds.append(fd)
    message.set_unix_fd_list(fds)
    message.set_num_unix_fds(FDS)
    return message


def main():
    address, *services = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    answers, null = collections.Counter(), os.open("/dev/null", os.O_RDONLY)

    def on_answer(connection, result):
        try:
            answer = connection.send_message_with_reply_finish(result)
            answers[answer.get_error_name() or "ok"] += 1
        except GLib.Error as error:
            answers[Gio.DBusError.get_remote_error(error) or "closed"] += 1
    listeners = [(connection := connect(address), listen(connection, service)) for service in services]
    for connection, path in listeners:
        for _ in range(CALLS):
            connection.send_message_with_reply(accept_with_fds(path, null), Gio.DBusSendMessageFlags.NONE, 60_000, None,
                                               on_answer)
    end, total = time.monotonic() + 5, CALLS * len(services)
    while sum(answers.values()) < total and time.monotonic() < end:
        GLib.MainContext.default().iteration(False) or time.sleep(0.002)
    if sum(answers.values()) < total:
        answers["waits"] = total - sum(answers.values())
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
