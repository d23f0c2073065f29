"""Revisions of schema `migrator`; the wheel carries them as `migrator.revisions`."""
