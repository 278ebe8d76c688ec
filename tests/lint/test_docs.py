# SPDX-License-Identifier: LGPL-2.1-or-later
"""The documents say what the code does: every fact that is written twice is compared here.

Sets are compared in both directions, so that neither something new nor something removed goes
unnoticed, and an empty set is an error of the test, not agreement.
"""

import re
import subprocess
from pathlib import Path

import pytest

from docs_text import ROOT, cells, definitions, man, man_section, plain, read, same, sources
from lab import build as builds

# files

def folder_hint(folders, name):
    return any((ROOT / folder / name).exists() for folder in folders)


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/threat-model.md", "docs/protocol.md", "docs/config.md",
                                  "docs/channel-abi.md", "docs/memory-ordering.md", "README.md",
                                  "tests/README.md"])
def test_named_files(name):
    """A file is named by its path, or alone after another one of its folder in the same paragraph."""
    missing, seen = [], 0
    for paragraph in re.split(r"\n\n|\n(?=\|)", re.sub(r"^```.*?^```", "", read(name), flags=re.M | re.S)):
        folders = []
        for word in re.findall(r"`([^`\s]+)`", paragraph):
            path = word.rstrip("/")
            if re.match(r"(src|docs|dbus|tests|tools|man|units|examples|completions)/", path):
                seen += 1
                if not list(ROOT.glob(path)):
                    missing.append(path)
                folders = [path, str(Path(path).parent)]
            elif re.fullmatch(r"[\w-]+\.(c|h|md|py)", path):
                seen += 1
                if not folder_hint([*folders, str(Path(name).parent), "tests"], path):
                    missing.append(f"{path} (after {folders})")
    assert not missing, f"{name} names what does not exist: " + ", ".join(missing)
    assert seen or name not in ("docs/architecture.md", "docs/threat-model.md")


def slug(heading):
    """As GitHub and others make it."""
    return re.sub(r"[^\w -]", "", heading.lower().replace("`", "")).replace(" ", "-")


def test_links():
    broken, seen = [], 0
    out = subprocess.run(["git", "-c", "safe.directory=*", "-C", ROOT, "ls-files", "-z", "*.md"], capture_output=True,
                         check=True).stdout.decode()
    for file in [ROOT / name for name in out.split("\0") if name]:
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", file.read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            seen += 1
            path, _, anchor = link.partition("#")
            target = file.parent / path if path else file
            if not target.exists():
                broken.append(f"{file.relative_to(ROOT)}: {link}")
            elif anchor and anchor not in {slug(h) for h in re.findall(r"^#+ (.*)$", target.read_text(), re.M)}:
                broken.append(f"{file.relative_to(ROOT)}: {link}: no such heading")
    assert seen and not broken, "\n".join(broken)


# errors, methods, members

def code_errors():
    """{name: code}: names of errors.c with the numbers of errors.h."""
    numbers = dict(re.findall(r"^\t(ERR_\w+) = (-\d+)", read("src/common/errors.h"), re.M))
    named = re.findall(r'NAMED\((ERR_\w+), (\w+), "(\w+)"\)', read("src/common/errors.c"))
    assert named
    own = {name: int(numbers[code]) for code, _, name in named if int(numbers[code]) > -32100}
    return own, {int(numbers[code]) for code in numbers} - set(own.values())


def test_error_names():
    own, json_rpc = code_errors()
    protocol = read("docs/protocol.md")
    told = {name: int(code) for code, name in re.findall(r"\| (-32\d+) \| (\w+)(?= \|)", protocol)}
    same(own.items(), told.items(), ("src/common/errors.c", "docs/protocol.md"))
    rest = {int(n) for n in re.findall(r"-32\d+", protocol)} - set(told.values())
    same(json_rpc, rest, ("JSON-RPC's own errors of src/common/errors.h", "docs/protocol.md"))
    xml = re.findall(r"org\.sivshm1\.Error\.(\w+) ", read("dbus/org.sivshm1.xml"))
    same(own, xml, ("src/common/errors.c", "dbus/org.sivshm1.xml"))
    client = re.findall(r'\{SIVSHM_ERROR "(\w+)"', read("src/client/bus.c"))
    same(own, client, ("src/common/errors.c", "src/client/bus.c"))


def test_host_error_names():
    code = re.findall(r'\bBUS_ERROR\("(\w+)"\)', sources("src/sivshm-cad/*.c"))
    comment = re.search(r"Errors:(.*?)-->", read("dbus/org.sivshm.ca1.xml"), re.S)[1]
    same(code, re.findall(r"(?:ca1\.Error|,\s*)\.(\w+)", comment), ("src/sivshm-cad", "dbus/org.sivshm.ca1.xml"))


def test_client_errors():
    """What the errors of the bus become, and every errno of the header, in libsivshm(3)."""
    code = {(name, r) for name, r in re.findall(r'\{SIVSHM_ERROR "(\w+)", -(E\w+)', read("src/client/bus.c"))}
    page = man_section(man("libsivshm.3"), "ERRORS")
    rows = re.findall(r"^\|  (\w[\w, ]*)\n:  (E\w+)", page, re.M)
    same(code, {(name, r) for names, r in rows for name in names.split(", ")},
         ("src/client/bus.c", "the table in libsivshm(3)"))
    header = set(re.findall(r"^ \*\t-(E\w+)\t", read("src/client/sivshm.h"), re.M))
    entries = set(re.findall(r"^\*-(E\w+)\*$", page, re.M))
    same(header | {r for _, r in code}, entries, ("sivshm.h and bus.c", "the entries in libsivshm(3)"))


def protocol_tables():
    """{heading: rows} of docs/protocol.md."""
    found, heading = {}, None
    for line in read("docs/protocol.md").splitlines():
        heading = line[3:] if line.startswith("## ") else heading
        if line.startswith("| ") and not line.startswith("| method") and not line.startswith("| from | method"):
            found.setdefault(heading, []).append(cells(line))
    return found


def sent(folder):
    """Methods that a folder gives to a function whose name says that it calls, tells or notifies."""
    return set(re.findall(r'\b\w*(?:call|notify|tell)\w*\([^;"{}]*?"([A-Z][A-Za-z]+)"', sources(f"{folder}/*.c")))


def received(folder):
    text = sources(f"{folder}/*.c")
    found = re.findall(r'strcmp\((?:method|name), "([A-Z]\w+)"\)|\{\s*"([A-Z][a-z]\w+)", (?:on|handle)_\w+', text)
    return {method for pair in found for method in pair if method}


def test_methods():
    tables = protocol_tables()
    guest = {plain(row[0]) for row in tables["Requests of the guest"]}
    host = {plain(row[0]) for row in tables["Requests of the host"]}
    for row in tables["Notifications"]:
        (guest if row[0] == "guest" else host).add(plain(row[1]))
    for side, folder, other in (("guest", "src/sivshmd", "src/sivshm-cad"), ("host", "src/sivshm-cad", "src/sivshmd")):
        told = guest if side == "guest" else host
        same(sent(folder), told, (f"what {folder} sends", "docs/protocol.md"))
        same(received(other), told, (f"what {other} takes", "docs/protocol.md"))


def test_members():
    """Members of the control messages."""
    code = set(re.findall(r'\b(?:read_|write_|field_)\w+\(&?[wf], "(\w+)"', sources("src/common/message*.c")))
    told = set()
    for heading, rows in protocol_tables().items():
        if heading in ("Requests of the guest", "Requests of the host"):
            told |= {m for row in rows for m in re.findall(r"`(\w+)`", row[1] + row[2])}
        elif heading == "Notifications":
            told |= {m for row in rows for m in re.findall(r"`(\w+)`", row[2])}
    same(code, told, ("src/common/message*.c", "docs/protocol.md"))


def test_limits():
    """Numbers of docs/protocol.md; strings are one shorter than the arrays that hold them."""
    headers = sources("src/common/*.h")
    protocol = " ".join(read("docs/protocol.md").split())
    for name, less, text in (("FRAME_MAX", 0, "at most {} bytes with the NUL"),
                             ("RPC_LINK_MAX_MALFORMED", 0, "More than {} in a row"),
                             ("RPC_LINK_MAX_REQUESTS", 0, "At most {} requests of a side"),
                             ("FLIGHT_MAX", 0, "A flight has at most {} bytes"), ("PEM_MAX", 1, "a PEM text {}"),
                             ("REASON_SIZE", 1, "a reason {}"), ("ERROR_TEXT_SIZE", 1, "the text of an error {}"),
                             ("PROTOCOL_VERSION", 0, "`version` {}, `nonce`"),
                             ("EXPORTER_SIZE", 0, "`exporter` (base64, {} bytes)"),
                             ("HOST_RANDOM_SIZE", 0, "`random` (base64, {} bytes)")):
        value = int(re.search(rf"^#define {name} (\d+)\b", headers, re.M)[1]) - less
        assert text.format(value) in protocol, f"{name}: docs/protocol.md does not say: {text.format(value)}"
    label = re.search(r'#define EXPORTER_LABEL "(.*)"', headers)[1]
    assert f"label `{label}`" in protocol


def test_bus_interfaces():
    """Members of the vtables and of the XML."""
    for folder, name in (("src/sivshmd", "org.sivshm1"), ("src/sivshm-cad", "org.sivshm.ca1")):
        text = sources(f"{folder}/*.c")
        code = {("property" if "PROPERTY" in kind else kind.lower(), member)
                for kind, member in re.findall(r'SD_BUS_(METHOD|SIGNAL|PROPERTY|WRITABLE_PROPERTY)\w*\(\s*"(\w+)"', text)}
        xml = set(re.findall(r'<(method|signal|property) name="(\w+)"', read(f"dbus/{name}.xml")))
        same(code, xml, (f"the vtables of {folder}", f"dbus/{name}.xml"))


def test_attacks_of_the_threat_model():
    """The table lists exactly the attacks that there are, and each one is held off."""
    done = subprocess.run([ROOT / "tools/threat-table", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
