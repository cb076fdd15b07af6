"""Bytes by URL: ranges, checked lengths, errors of our own."""
