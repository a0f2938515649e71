"""What must hold of one way to carry frames must hold of the other one."""

import pytest


@pytest.fixture(params=["fast", "plain"])
def lane(request, monkeypatch):
    """Both ends take the fast lane, or neither does."""
    monkeypatch.setenv("REMOTE_ENV_FAST", "1" if request.param == "fast" else "0")
    return request.param
