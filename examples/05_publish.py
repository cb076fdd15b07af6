"""Publish an encoder and a model made on it: to a folder here, to the Hub with a login.

The Hub is not touched unless a repository is named: `python 05_publish.py you/coast-small`.
"""

import sys
from pathlib import Path

import torch

import deepsentinel
from deepsentinel import Classifier, FusionEncoder
from deepsentinel.encoders.card import Card


def encoder() -> FusionEncoder:
    """An untrained encoder, in place of yours."""
    card = Card(
        name="coast-small",
        licence="MIT",
        data_licence="CC-BY-4.0",
        training={"data": "none: its weights are random", "seed": "0"},
        limits="Use this when trying how publishing works.",
    )
    return FusionEncoder("mobilenetv4_conv_small_050", embed_dim=64, card=card).eval()


def main() -> None:
    mine = encoder()
    folder = Path("coast-small")
    mine.save_pretrained(folder)
    theirs = deepsentinel.load_encoder(folder)
    s1 = torch.full((1, 2, 64, 64), -12.0)
    with torch.inference_mode():
        same = torch.equal(theirs(s1=s1).embedding, mine(s1=s1).embedding)
    print(f"what was saved and opened gives the same embedding: {same}")
    print(f"{folder}: {theirs.card.parameters:,} parameters, sha256 {theirs.card.sha256[:8]}")
    print(theirs.card.to_markdown().partition("## Facts")[0])

    model = Classifier(
        mine, 2, class_names=("sea", "land"), class_colours=("#1f4e79", "#c2b280")
    ).eval()
    opened = deepsentinel.load_model(model.save_pretrained("coastline"))
    with torch.inference_mode():
        print("a model predicts", opened.class_names[int(opened(s1).classes[0])])

    if len(sys.argv) > 1:
        commit = mine.push_to_hub(sys.argv[1])
        print(f"load_encoder('hf://{sys.argv[1]}@{commit}')")


if __name__ == "__main__":
    main()
