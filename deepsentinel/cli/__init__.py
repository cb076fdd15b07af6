"""The command line: one verb per public function, each in the module of its name."""

from deepsentinel.cli.root import app, main

__all__ = ["app", "main"]
