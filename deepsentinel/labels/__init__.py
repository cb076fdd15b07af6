"""Label schemes: names, ids, colours and hierarchy, and how OpenStreetMap features become labels."""

from deepsentinel.labels.classes import IGNORE, LabelClass, Scheme
from deepsentinel.labels.registry import list_schemes, scheme

__all__ = ["IGNORE", "LabelClass", "Scheme", "list_schemes", "scheme"]
