"""Promises of the package as a whole: fast import, public names, no torch where none is needed."""

import subprocess
import sys

import deepsentinel


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_lazy() -> None:
    heavy = "torch torchgeo lightning timm rasterio pyarrow matplotlib numpy"
    code = f"import sys, deepsentinel; print([m for m in {heavy!r}.split() if m in sys.modules])"
    assert run(code) == "[]"


def test_public_names_resolve() -> None:
    for name in deepsentinel.__all__:
        assert getattr(deepsentinel, name) is not None
    assert set(deepsentinel.__all__) <= set(dir(deepsentinel))


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(deepsentinel, "load_encodr")


def test_corpus_rooms_import_no_torch() -> None:
    modules = ["errors", "bands", "units", "labels", "store", "corpus.read", "corpus.convert"]
    code = f"""
import sys
from importlib import import_module
for m in {modules!r}: import_module("deepsentinel." + m)
print([m for m in ("torch", "torchgeo", "lightning", "timm") if m in sys.modules])
"""
    assert run(code) == "[]"


def test_shipped_encoder_needs_neither_torchgeo_nor_lightning_nor_smp() -> None:
    code = """
import sys, deepsentinel
deepsentinel.load_encoder()
print([m for m in ("torchgeo", "lightning", "segmentation_models_pytorch") if m in sys.modules])
"""
    assert run(code) == "[]"
