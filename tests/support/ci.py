"""What a machine lacks skips a test there, and fails it in CI."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

CI = os.environ.get("CI") == "true"


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test that calls this; with ``CI=true`` fail it.

    Args:
        reason: what is missing.
    """
    if CI:
        pytest.fail(reason)
    pytest.skip(reason)
