"""For programs that must not read this checkout's `.env`: it would answer for what a test leaves out."""

from __future__ import annotations

# What a program begins with.
WITHOUT = "import environ; environ.Env.read_env = classmethod(lambda *_, **__: None)\n"
