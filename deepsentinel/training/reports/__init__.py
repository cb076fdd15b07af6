"""Reports of every kind of run."""
