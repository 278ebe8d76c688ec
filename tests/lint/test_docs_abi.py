# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two ABIs: sizes, offsets and numbers of docs/channel-abi.md are those of the compiled headers, and every ioctl
and every public function is documented.
"""

import re
import subprocess

import pytest

from docs_text import ROOT, cells, definitions, man, man_section, read, same
from lab import build as builds

UAPI = "src/kmod/uapi/sivshm.h"
TABLE = "src/kmod/uapi/sivshm_table.h"
RING = "src/client/ring-abi.h"

# the table of fields that follows a text is the layout of a structure
LAYOUTS = {
    "\n`SIVSHM_CHANNEL_GET_INFO`:\n": (UAPI, "sivshm_channel_info"),
    "\n## 4. Control page\n": (RING, "sivshm_control"),
    "\n## 8. Where the windows come from\n": (TABLE, "sivshm_grant"),
}
NOT_FIELDS = re.compile(r"(reserved|pad)\d*$")


def page():
    return read("docs/channel-abi.md")


def ioctls():
    """{name: argument's structure or None} of the header."""
    found = dict(re.findall(r"^#define (SIVSHM_\w+) _IO(?:R|W|WR)?\(\w+, \w+(?:, (struct \w+))?\)", read(UAPI), re.M))
    assert found
    return found


def compiled(tmp_path, expressions):
    """The values of C expressions, by the headers."""
    lines = "".join(f'\tprintf("%llu\\n", (unsigned long long)({e}));\n' for e in expressions)
    source = tmp_path / "values.c"
    source.write_text("#include <stdio.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <sys/ioctl.h>\n"
                      f'#include "{ROOT / UAPI}"\n#include "{ROOT / RING}"\nint main(void)\n{{\n{lines}}}\n')
    program = tmp_path / "values"
    done = subprocess.run(["gcc", "-o", program, source], capture_output=True, text=True, env=builds.environment())
    assert done.returncode == 0, done.stderr
    return [int(line) for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()]


def table_after(text):
    """Rows of the first table behind a text."""
    assert page().count(text) == 1, f"docs/channel-abi.md has {text!r} not once"
    table = re.search(r"^\|.*?(?=^[^|])", page().split(text)[1], re.M | re.S)[0]
    return [cells(line) for line in table.splitlines()[2:]]


def fields(header, struct):
    body = re.search(rf"^struct {struct} \{{\n(.*?)^\}};", read(header), re.M | re.S)[1]
    return re.findall(r"\b(\w+)(?:\[\w+\])?;", body)


@pytest.mark.parametrize("text", LAYOUTS, ids=[struct for _, struct in LAYOUTS.values()])
def test_layout(tmp_path, text):
    header, struct = LAYOUTS[text]
    told = {row[2].strip("`"): (int(row[0]), int(row[1])) for row in table_after(text)}
    names = [name for name in fields(header, struct) if not NOT_FIELDS.match(name)]
    same(names, {name for name in told if not NOT_FIELDS.match(name)}, (f"struct {struct}", "docs/channel-abi.md"))
    values = compiled(tmp_path, [e for name in told for e in
                                 (f"offsetof(struct {struct}, {name})", f"sizeof(((struct {struct} *)0)->{name})")])
    for i, name in enumerate(told):
        assert told[name] == (values[2 * i], values[2 * i + 1]), f"offset and size of {name} in struct {struct}"


def test_ioctl_numbers(tmp_path):
    """Number and size of the argument, for those on a channel."""
    told = {row[0].strip("`"): row for row in table_after("(`_IOC` of Linux with type 0xC5).\n")}
    channel = {name: struct for name, struct in ioctls().items() if name.startswith("SIVSHM_CHANNEL_")}
    same(channel, told, (UAPI, "docs/channel-abi.md"))
    for name, struct in channel.items():
        number, size = compiled(tmp_path, [f"{name} & 0xffffffffULL", f"sizeof({struct})" if struct else "0"])
        assert int(told[name][1], 16) == number, f"{name} is {number:#X}"
        size_told = re.search(r"(\d+) bytes", told[name][2])
        assert int(size_told[1] if size_told else 0) == size, f"the argument of {name} has {size} bytes"


def test_wait_layout(tmp_path):
    """In prose: where the members of the argument of WAIT are."""
    for name, size, offset in re.findall(r"`(timeout_ns|count)`\s+\((\d+) bytes at (\d+)", page()):
        values = compiled(tmp_path, [f"offsetof(struct sivshm_wait, {name})",
                                     f"sizeof(((struct sivshm_wait *)0)->{name})"])
        assert values == [int(offset), int(size)], name
    assert len(re.findall(r"bytes at \d", page())) == len(fields(UAPI, "sivshm_wait"))


def test_constants(tmp_path):
    """Numbers that the page spells out."""
    rx = re.search(r"\| RX: written by the peer \| (0x[0-9a-f]+) \|", page())[1]
    magic = re.search(r"\| `magic` \| (0x[0-9a-f]+) ", page())[1]
    low, high = re.search(r"power of two, (\d+) to 2\^(\d+)", page()).groups()
    entry = re.search(r"entries of (\d+) bytes", page())[1]
    values = compiled(tmp_path, ["SIVSHM_RX_OFFSET", "SIVSHM_RING_MAGIC", "SIVSHM_MIN_RING_SIZE",
                                 "SIVSHM_MAX_RING_SIZE", "SIVSHM_GRANT_SIZE", "SIVSHM_TX_OFFSET",
                                 "SIVSHM_CONTROL_SIZE", "SIVSHM_RECORD_HEADER_SIZE", "SIVSHM_RECORD_ALIGN",
                                 "SIVSHM_GRANT_FREE", "SIVSHM_STATE_ACTIVE", "SIVSHM_STATE_DRAINING",
                                 "SIVSHM_STATE_REVOKED", "SIVSHM_MAX_MAPS"])
    maps = re.search(r"`SIVSHM_MAX_MAPS` \((\d+)\)", page())[1]
    assert values == [int(rx, 16), int(magic, 16), int(low), 1 << int(high), int(entry), 0, 4096, 8, 8, 0, 1, 2, 3,
                      int(maps)]
    assert "| TX: written by you | 0 |" in page() and "| 0 | 4096 | control page" in page()
    assert "0 free, 1 active, 2 draining, 3 revoked" in page()


def test_ioctls_documented():
    """All of them in sivshm(4), with what they are for."""
    entries = {name for head, _ in definitions(man_section(man("sivshm.4"), "IOCTLS"))
               for name in re.findall(r"SIVSHM_\w+", head)}
    same(ioctls(), entries, (UAPI, "sivshm(4)"))


def test_module_parameters():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "src/kmod").glob("*.c")))
    code = re.findall(r"^module_param\((\w+),", text, re.M)
    entries = definitions(man_section(man("sivshm.4"), "PARAMETERS"))
    same(code, {re.match(r"\*(\w+)\*", head)[1] for head, _ in entries}, ("src/kmod", "sivshm(4)"))
    for head, body in entries:
        name = re.match(r"\*(\w+)\*", head)[1]
        default = re.search(rf"^static [\w ]+ {name} = (\w+);", text, re.M)[1]
        assert f"default {default}." in body, f"the default of {name} is {default}"


def test_public_functions():
    exported = re.search(r"global:(.*?)local:", read("src/client/libsivshm.sym"), re.S)[1]
    exported = set(re.findall(r"\w+(?=;)", exported))
    header = read("src/client/sivshm.h")
    same(exported, re.findall(r"^(?:\w[\w\s]*[ *])(sivshm_\w+)\(", header, re.M), ("libsivshm.sym", "sivshm.h"))
    comments = re.findall(r"^/\*\*(?:\n \*)? (sivshm_\w+)\(\) - ", header, re.M)
    same(exported, comments, ("libsivshm.sym", "the comments of sivshm.h"))
    entries = {f for head, _ in definitions(man_section(man("libsivshm.3"), "CALLS"))
               for f in re.findall(r"sivshm_\w+", head) if head.startswith("*sivshm_")}
    same(exported, entries, ("libsivshm.sym", "libsivshm(3)"))
