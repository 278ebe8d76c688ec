# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configuration keys: the code, docs/config.md and the man pages name the same with the same defaults and bounds."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from docs_text import ROOT, cells, definitions, man, plain, read, same
from lab import build as builds

# configuration

# which table of the code is which section, and where the man pages have it
HOST_TABLES = {"ca_keys": "CA", "limits_keys": "Limits", "vm_keys": "VM", "region_keys": "Region",
               "rule_keys": "Allow"}
# the least that a section needs, for the files that the probe reads
HOST_MINIMAL = {
    "CA": ("ca.conf", "[CA]\n"), "Limits": ("ca.conf", "[Limits]\n"),
    "VM": ("vm.d/1.conf", "[VM a]\nUser=1\nServices=s\n"),
    "Region": ("region.d/1.conf", "[Region r]\nMembers=a b\n"),
    "Allow": ("policy.d/1.conf", "[Allow a/s b/s]\n"),
}
GUEST_MINIMAL = {"Service": ("policy.d/1.conf", "[Service s]\nUser=1\n")}

PROBES = {
    "host": ("src/sivshm-cad", ["config.c", "config-load.c"], "sivshm-ca", HOST_MINIMAL),
    "guest": ("src/sivshmd", ["policy.c", "policy-load.c"], "sivshm", GUEST_MINIMAL),
}


class Key:
    """A documented key: its default if that is a value, else the words for it."""

    def __init__(self, default, text):
        value = re.fullmatch(r"`([^`]+)`|\*([^*]+)\*", default)
        self.value = value[1] or value[2] if value else None
        self.words = plain(default)
        bounds = re.search(r"(?<![\w.])(\w+) to (\d\w*)", text)
        self.bounds = bounds.groups() if bounds else None


@cache
def documented_keys():
    """{(section, key): Key} of docs/config.md."""
    found, section = {}, None
    for line in read("docs/config.md").splitlines():
        begins = re.search(r"`\[(\w+)[^`]*\]`", line)
        section = begins[1] if begins else section
        row = cells(line) if line.startswith("|") else []
        if row and (row[0] == "" or begins):
            row = row[1:]
        for key in re.findall(r"`(\w+)`", row[0]) if len(row) == 3 else []:
            found[section, key] = Key(row[1], row[2])
    return found


@cache
def man_keys():
    """The same of the man pages: "*Key=*" and then "Default: ..." or "Required."."""
    found = {}
    for name in ("sivshm-ca.conf.5", "sivshm-policy.5"):
        for title, body in re.findall(r"^## [\w.]+: \[(\w+)[^\n]*\]\n(.*?)(?=^#|\Z)", man(name), re.M | re.S):
            for head, text in definitions(body):
                default = re.match(r"Default: (.*?)\.(?= |$)|(Required)\.", text, re.M)
                assert default, f"{name}: {head} tells no default"
                for key in re.findall(r"\*(\w+)=\*", head):
                    found[title, key] = Key(default[1] or "required", text)
    return found


def code_keys():
    found = set()
    load = read("src/sivshm-cad/config-load.c")
    tables = dict(re.findall(r"^static const struct key (\w+)\[\] = \{\n(.*?)^\};", load, re.M | re.S))
    assert set(tables) == set(HOST_TABLES), "config-load.c has other tables than this test knows"
    for table, section in HOST_TABLES.items():
        found |= {(section, key) for key in re.findall(r'\{\s*"(\w+)",', tables[table])}
    found |= {("Service", key) for key in re.findall(r'strcmp\(key, "(\w+)"\)', read("src/sivshmd/policy-load.c"))}
    return found


def test_config_keys():
    same(code_keys(), documented_keys(), ("the code", "docs/config.md"))
    same(code_keys(), man_keys(), ("the code", "the man pages of section 5"))


def test_config_defaults_agree():
    for name, key in documented_keys().items():
        assert key.words == man_keys()[name].words, f"{name}: default in docs/config.md and in the man page"
        assert key.bounds == man_keys()[name].bounds, f"{name}: bounds in docs/config.md and in the man page"


class Probe:
    """Loads configurations by the daemon's own reader."""

    def __init__(self, side, where):
        folder, files, self.dir, self.minimal = PROBES[side]
        self.where, self.program, self.n = where, where / f"{side}-probe", 0
        common = [ROOT / "src/common" / f for f in ("conf.c", "conf-lines.c", "conf-value.c", "names.c", "errors.c")]
        argv = ["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-g", "-ftrivial-auto-var-init=zero", "-I", ROOT / folder,
                "-I", ROOT / "src/common", "-I", ROOT / "src/kmod/uapi", "-o", self.program,
                Path(__file__).parent / f"probe-{side}.c", *[ROOT / folder / f for f in files], *common]
        done = subprocess.run(argv, capture_output=True, text=True, env=builds.environment())
        assert done.returncode == 0, done.stderr

    def tree(self, section, change):
        """A root with the minimal configuration, where @section's text went through @change."""
        self.n += 1
        root = self.where / str(self.n)
        files = {}
        for name, (path, text) in self.minimal.items():
            files[path] = files.get(path, "") + (change(text) if name == section else text)
        if "vm.d/1.conf" in files:
            files["vm.d/2.conf"] = "[VM b]\nUser=2\nServices=s\n"
        for path, text in files.items():
            file = root / "etc" / self.dir / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return root

    def run(self, *roots):
        return subprocess.run([self.program, *roots], capture_output=True, text=True)

    def load(self, section, change):
        return self.run(self.tree(section, change))

    def equal(self, section, change):
        return self.run(self.tree(section, lambda text: text), self.tree(section, change))


@pytest.fixture(scope="module", params=PROBES)
def probe(request, tmp_path_factory):
    return Probe(request.param, tmp_path_factory.mktemp(request.param))


def keys_of(probe):
    found = {name: key for name, key in documented_keys().items() if name[0] in probe.minimal}
    assert found
    return found


def test_config_defaults(probe):
    """Giving a key its documented default changes nothing; giving it another value does."""
    seen = 0
    for (section, name), key in keys_of(probe).items():
        if key.value is None:
            continue
        seen += 1
        done = probe.equal(section, lambda text: text + f"{name}={key.value}\n")
        assert done.returncode == 0, f"{name}={key.value} is not the default of the code {done.stdout}"
        if key.bounds:
            other = next(b for b in key.bounds if b != key.value)
            done = probe.equal(section, lambda text: text + f"{name}={other}\n")
            assert done.returncode == 2, f"{name}={other} does the same as {key.value}: {done.stdout}"
    assert seen


def test_config_required(probe):
    seen = 0
    for (section, name), key in keys_of(probe).items():
        if key.words != "required":
            continue
        seen += 1
        done = probe.load(section, lambda text: re.sub(rf"^{name}=.*\n", "", text, flags=re.M))
        assert done.returncode == 1 and f"{name}=" in done.stdout, f"{name}= is not required: {done.stdout}"
    assert seen


def beyond(bound, step):
    """The next value outside of a bound; sizes are powers of two."""
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", bound).groups()
    factors = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    if unit in factors:
        size = int(number) * factors[unit]
        return str(size * 2 if step > 0 else size // 2)
    return f"{int(number) + step}{unit}"


def test_config_bounds(probe):
    """Both ends of a documented range are accepted, what is beyond them is not."""
    seen = 0
    for (section, name), key in keys_of(probe).items():
        if not key.bounds:
            continue
        seen += 1
        low, high = key.bounds
        for value in (low, high):
            done = probe.load(section, lambda text: text + f"{name}={value}\n")
            # the last PCI slot is a number like any other, but leaves no room for the sections
            assert done.returncode == 0 or "PCI slots" in done.stdout, f"{name}={value}: {done.stdout}"
        for value in (beyond(low, -1), beyond(high, 1)):
            done = probe.load(section, lambda text: text + f"{name}={value}\n")
            assert done.returncode == 1 and name in done.stdout, f"{name}={value} is accepted"
    assert seen


def test_examples_of_man_pages(probe):
    """The examples of the section 5 pages are configurations that load."""
    name = {"sivshm-ca": "sivshm-ca.conf.5", "sivshm": "sivshm-policy.5"}[probe.dir]
    blocks = re.findall(r"^```\n(# /etc/.*?)^```", man(name), re.M | re.S)
    assert blocks
    for n, block in enumerate(blocks):
        root = probe.where / f"example-{n}"
        for path, text in re.findall(r"^# (/\S+)\n(.*?)(?=^# /|\Z)", block, re.M | re.S):
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            # users of the example are not users of this machine
            file.write_text(re.sub(r"^User=.*", "User=1", text, flags=re.M))
        done = probe.run(root)
        assert done.returncode == 0, f"{name}: {done.stdout}"


def test_example_configurations(probe, tmp_path):
    folders = [p.parent for p in sorted(ROOT.glob(f"examples/*/*/etc/{probe.dir}"))]
    assert folders
    for folder in folders:
        root = tmp_path / folder.parent.name
        for file in folder.rglob("*.conf"):
            to = root / "etc" / file.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(re.sub(r"^User=.*", "User=1", file.read_text(), flags=re.M))
        done = probe.run(root)
        assert done.returncode == 0, f"{folder.relative_to(ROOT)}: {done.stdout}"
