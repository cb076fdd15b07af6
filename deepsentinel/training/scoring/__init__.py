"""Scores of trained models, task by task."""
