# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of every pytest suite. `pytest` may be run by hand too; tools/check is the usual way."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402

from lab import build as builds  # noqa: E402
from lab import image as images  # noqa: E402
from lab import paths  # noqa: E402


@pytest.fixture
def figures(request):
    """A dict for what a test measures; it comes out in the report."""
    values = {}
    yield values
    request.node.user_properties.extend(values.items())


@pytest.fixture(scope="session")
def log_dir():
    path = Path(os.environ.get("SIVSHM_LOGS") or paths.BUILD / "logs")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def image():
    """What guests boot from, see lab.image."""
    return images.ensure(print)


@pytest.fixture(scope="session")
def destdir(image):
    """The project as installed by gcc's build, module included."""
    return builds.install(image)


@pytest.fixture(scope="session")
def payload(destdir):
    """The same as a disk for guests."""
    return images.make_payload(destdir)
