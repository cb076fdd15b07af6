"""Label schemes: names, ids, colours and hierarchy, and how OpenStreetMap features become labels."""

from deepsentinel.labels.bigearthnet import bigearthnet_43_to_19
from deepsentinel.labels.classes import IGNORE, LabelClass, Scheme
from deepsentinel.labels.registry import list_schemes, scheme

__all__ = ["IGNORE", "LabelClass", "Scheme", "bigearthnet_43_to_19", "list_schemes", "scheme"]
