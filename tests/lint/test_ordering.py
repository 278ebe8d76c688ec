# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/memory-ordering.md against the code: every shared word, every atomic access, every barrier, both ways."""

import re
from collections import Counter
from functools import cache

import pytest

from docs_text import ROOT, cells, read, same

PAGE = "docs/memory-ordering.md"
HEADERS = ["src/client/ring-abi.h", "src/kmod/uapi/sivshm_table.h"]
STRUCTS = ["sivshm_control", "sivshm_record", "sivshm_grant", "sivshm_table_header", "sivshm_section_desc",
           "sivshm_section_header"]
LITMUS = "tests/model/litmus"
# what a field name means in a folder, where two structures have it
WINDOW = {"magic": "sivshm_control", "closed": "sivshm_control", "producer": "sivshm_control",
          "consumer": "sivshm_control", "want_data": "sivshm_control", "want_space": "sivshm_control"}
TABLE = {"magic": "sivshm_table_header", "epoch": "sivshm_table_header", "state": "sivshm_grant",
         "generation": "sivshm_grant"}
# pointers to a word
POINTERS = {"own_rung": "sivshm_control.rung", "peer_rung": "sivshm_control.rung"}
FOLDERS = {"client": WINDOW, "kmod": TABLE, "sivshm-cad": TABLE}
# the accessors themselves: what they are used for is told where they are used
ACCESSORS = {"ring_load32", "ring_load64", "ring_store32", "ring_store64", "ring_full_barrier"}
ORDERS = {"__ATOMIC_RELEASE": "release", "__ATOMIC_ACQUIRE": "acquire", "__ATOMIC_RELAXED": "relaxed",
          "__ATOMIC_SEQ_CST": "full"}
ACCESS = re.compile(r"\b(__atomic_\w+|__sync_\w+|ring_load\d+|ring_store\d+|ring_full_barrier|smp_\w+|READ_ONCE|"
                    r"WRITE_ONCE|(?<!__)atomic(?:64)?_\w+|memcpy_(?:from|to)io|io(?:read|write)\d+|"
                    r"(?:read|write)[bwlq]|[rw]?mb|dma_[rw]?mb|barrier)\(")


def without_comments(text):
    """Line numbers stay."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)


def arguments(text, at):
    """Of the call whose bracket opens at *at*."""
    depth, found, start = 0, [], at + 1
    for i in range(at, len(text)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[i], 0)
        if (text[i] == "," and depth == 1) or depth == 0:
            found.append(" ".join(text[start:i].split()))
            start = i + 1
        if depth == 0:
            return [a for a in found if a]
    raise AssertionError("a call that does not end")


@cache
def functions():
    """{(file, function): body} of all of src/."""
    found = {}
    for path in sorted((ROOT / "src").rglob("*.[ch]")):
        text = without_comments(path.read_text())
        for match in re.finditer(r"^(?:\w[^;{}()\n]*[ *])?(\w+)\([^;{}]*?\)\n\{\n(.*?)^\}", text, re.M | re.S):
            found[str(path.relative_to(ROOT)), match[1]] = match[2]
    assert len(found) > 500
    return found


@cache
def accesses():
    """[(file, function, call, arguments)] of all atomic accesses and barriers; each one has to be in a function."""
    found, inside = [], 0
    for (file, name), body in functions().items():
        for match in ACCESS.finditer(body):
            inside += 1
            if name not in ACCESSORS:
                found.append((file, name, match[1], arguments(body, match.end() - 1)))
    everywhere = sum(len(ACCESS.findall(re.sub(r"^#define.*(?:\\\n.*)*", "", without_comments(p.read_text()), flags=re.M)))
                     for p in (ROOT / "src").rglob("*.[ch]"))
    heads = sum(1 for file, name in functions() if name in ACCESSORS)  # the definitions look like calls
    assert inside == everywhere - heads, "an atomic access outside of what this test takes for a function"
    return found


def word_of(file, expression):
    """The shared word that an expression names; None when it is a private one."""
    if "record" in expression:
        return "sivshm_record.length"
    field = re.search(r"(\w+)$", expression)[1]
    if field in POINTERS:
        return POINTERS[field]
    struct = FOLDERS.get(file.split("/")[1], {}).get(field)
    return f"{struct}.{field}" if struct else None


# the page

def tables(title):
    """Rows of the first table below a heading."""
    part = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", read(PAGE), re.M | re.S)[1]
    rows = re.search(r"(?:^\|.*\n)+", part, re.M)[0].splitlines()
    return [cells(row) for row in rows[2:]]


@cache
def words():
    """{word: (stored, loaded, shown by)}"""
    found = {}
    for title in ("Words of a window", "Words of the grant table", "Words of a section's header"):
        for row in tables(title):
            assert len(row) == 5, row
            for word in re.findall(r"`(\w+\.\w+)`", row[0]) or [row[0]]:
                assert word not in found, f"{word} has two rows"
                found[word] = (row[1], row[2], row[4])
    return found


@cache
def not_shared():
    return {name for row in tables("Not shared") for name in re.findall(r"`([^`]+)`", row[0])}


def named(cell):
    """{(order, function)}: "release: `f()`, `g()`; once: `f()`"."""
    found = set()
    for part in cell.split(";"):
        order = re.search(r"\b(release|acquire|relaxed|once|plain|copy|device): `", part)
        found |= {(order[1] if order else "", name) for name in re.findall(r"`(\w+)\(\)`", part)}
    return found


def atomic(pairs):
    return {(order, name) for order, name in pairs if order in ("release", "acquire", "relaxed", "once")}


# tests

def test_every_field_has_a_row():
    fields = set()
    for header in HEADERS:
        for struct, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", read(header), re.M | re.S):
            assert struct in STRUCTS, f"{header}: struct {struct} is new here"
            fields |= {f"{struct}.{name}" for name in re.findall(r"\b(\w+)(?:\[\w+\])?;", body)
                       if not re.fullmatch(r"(pad|reserved)\d*", name)}
    # the one reserved word that is written
    same(fields | {"sivshm_section_header.reserved0", "payload"}, words(), ("the headers", PAGE))


def test_every_access_is_told():
    """With its order, in its function, on its word; and nothing is told that is not there."""
    code, private = set(), set()
    for file, name, call, args in accesses():
        order = next((ORDERS[a] for a in reversed(args) if a in ORDERS), None)
        if call.startswith("ring_load") or call == "smp_load_acquire":
            kind, order = "loaded", "acquire"
        elif call.startswith("ring_store") or call == "smp_store_release":
            kind, order = "stored", "release"
        elif call == "READ_ONCE":
            kind, order = "loaded", "once"
        elif call in ("WRITE_ONCE", "__atomic_store_n") or call.startswith("__atomic_compare"):
            kind, order = "stored", order or "once"
        elif call == "__atomic_load_n":
            kind = "loaded"
        elif re.match(r"atomic(64)?_|io(read|write)|memcpy_", call):
            kind = None
        else:
            continue  # a barrier, below
        names = args[:1] if call.startswith(("ring_", "__atomic")) else args  # atomic_add() has its word behind
        expression = next((a.lstrip("&") for a in names if re.sub(r" \+ .*", "", a.lstrip("&")) in not_shared()), None)
        if expression:
            private.add(re.sub(r" \+ .*", "", expression))
            continue
        word = word_of(file, args[0])
        assert kind and order and word, f"{file}: {name}(): {call}({', '.join(args)}) is in no table of {PAGE}"
        code.add((word, kind, order, name))
    told = {(word, kind, order, name) for word, row in words().items() if word != "sivshm_record.flags"
            for kind, cell in zip(("stored", "loaded"), row) for order, name in atomic(named(cell))}
    same(code, told, ("src", PAGE))
    same(private, not_shared(), ("private words of src", f"those of {PAGE}"))


def test_device_accesses_are_told():
    code = {name for _, name, call, _ in accesses() if re.match(r"io(read|write)|memcpy_", call)}
    told = {name for row in words().values() for cell in row[:2] for order, name in named(cell) if order == "device"}
    same(code, told | {"sivshm_section_ring"}, ("src", PAGE))


def test_every_barrier_is_told():
    code = Counter()
    for _, name, call, args in accesses():
        if call == "ring_full_barrier":
            code["full", name] += 1
        elif call == "__atomic_thread_fence":
            code[ORDERS[args[0]], name] += 1
        elif re.fullmatch(r"smp_[rw]?mb", call):
            code[call, name] += 1
        else:
            assert re.match(r"ring_|READ_|WRITE_|smp_load_acq|smp_store_rel|__atomic_(load_n|store_n|compare)|"
                            r"atomic(64)?_|io|memcpy_", call), f"{name}(): {call}() is new here"
    told = Counter()
    for row in tables("Barriers"):
        kind, _, times = row[0].partition(", ")
        told[kind, re.fullmatch(r"`(\w+)\(\)`", row[1])[1]] += int(times or 1)
        partners = re.findall(r"`(\w+)\(\)`", row[3])
        assert partners, row
    same(code.items(), told.items(), ("src", PAGE))


def test_partners_are_mutual():
    """Whose partner is another barrier is that one's partner."""
    rows = {re.search(r"`(\w+)\(\)`", row[1])[1]: set(re.findall(r"`(\w+)\(\)`", row[3])) for row in tables("Barriers")}
    for name, partners in rows.items():
        for partner in partners & set(rows):
            assert name in rows[partner], f"{partner}() does not name {name}()"


def test_names_exist():
    page = read(PAGE)
    existing = {name for _, name in functions()} | {"pwrite", "memcpy", "atomic_thread_fence", "READ_ONCE", "iowrite32",
                                                    "smp_load_acquire", "smp_rmb"}
    functions_named = set(re.findall(r"`(\w+)\(\)`", page))
    assert functions_named and not functions_named - existing, functions_named - existing


@pytest.mark.parametrize("title", ["Words of a window", "Words of the grant table", "Words of a section's header",
                                   "Barriers"])
def test_evidence_exists(title):
    for row in tables(title):
        shown = re.findall(r"`([^`]+)`", row[-1])
        assert shown, row
        for name in shown:
            path = name if "/" in name else f"{LITMUS}/{name}.litmus"
            assert (ROOT / path).is_file(), f"{name}: {path} does not exist"


def test_every_model_is_named():
    page = set(re.findall(r"`([\w-]+)`", read(PAGE)))
    models = {path.stem for path in (ROOT / LITMUS).glob("*.litmus")}
    assert models and models <= page, models - page


def test_models_name_the_functions():
    """A file in the last column of a barrier speaks of the function that holds it."""
    for row in tables("Barriers"):
        holder = re.search(r"`(\w+)\(\)`", row[1])[1]
        models = [name for name in re.findall(r"`([\w-]+)`", row[-1]) if "/" not in name]
        texts = "".join(read(f"{LITMUS}/{name}.litmus") for name in models)
        assert not models or re.search(rf"\b{holder}\(\)", texts), f"{holder}(): not in {models}"
