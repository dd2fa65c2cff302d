"""Mark what needs a twin: such tests run one after the other, with the machine to themselves."""

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "twin" in item.fixturenames or hasattr(item.module, "require_twin"):
            item.add_marker(pytest.mark.twin)
