"""Folders of source files, one module a kind: which patches they hold and how to read one."""
