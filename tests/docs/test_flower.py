"""docs/flower.md names every variable of workers/flowerconfig.py, and every way of its API to change something."""

from __future__ import annotations

import re

from flower.urls import handlers

from tests.docs.pages import ROOT, read

PAGE = read(ROOT / "docs/flower.md")


def test_the_page_has_every_variable() -> None:
    named = set(re.findall(r"MIGRATOR_FLOWER_\w+", read(ROOT / "workers/flowerconfig.py")))
    assert set(re.findall(r"^\| `(MIGRATOR_FLOWER_\w+)` \|", PAGE, re.MULTILINE)) == named


def test_the_page_says_what_each_button_does() -> None:
    """By the last word of its address, in the words of Flower's pages."""
    told = {
        "shutdown": "Shut down", "restart": "Restart the pool", "grow": "Grow", "shrink": "shrink",
        "autoscale": "autoscale", "add-consumer": "Cancel a consumer", "cancel-consumer": "Cancel a consumer",
        "apply": "task/apply", "async-apply": "task/async-apply", "send-task": "task/send-task",
        "abort": "task/abort", "timeout": "Time limits", "rate-limit": "rate limit", "revoke": "task/revoke",
    }  # fmt: skip
    changing = [each[0] for each in handlers if isinstance(each, tuple) and "post" in vars(each[1])]
    words = {address.split("/(")[0].rpartition("/")[2] for address in changing if address.startswith("/api/")}
    assert words == set(told)
    assert all(each in PAGE for each in told.values())
