"""Every signal, made for real: a lagging standby, a failing archiver, an old snapshot, a waiting lock, a vacuum."""

from __future__ import annotations
