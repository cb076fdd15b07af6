"""`deepsentinel encoders`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from deepsentinel.cli.common import Json, out, print_json, rows_table, say
from deepsentinel.errors import EncoderNotFoundError, nearest

if TYPE_CHECKING:
    from deepsentinel.encoders.card import Card


def encoders(
    name: Annotated[
        str | None, typer.Argument(help="Show the whole card of this encoder.", show_default=False)
    ] = None,
    *,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch its weights for work without a network.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The encoders that can be loaded by name: bands, size, licence; or one card.

    Example: [bold]deepsentinel encoders galileo-nano --download[/]
    """
    from deepsentinel.zoo.load import download_encoder, list_encoders
    from deepsentinel.zoo.table import facts

    cards = {card.name: card for card in list_encoders()}
    if name is not None and name not in cards:
        raise EncoderNotFoundError(f"there is no encoder {name!r}. {nearest(name, cards)}")
    if download:
        if name is None:
            raise EncoderNotFoundError(f"--download needs a name. {nearest('', cards)}")
        files = {key: str(path) for key, path in download_encoder(name).items()}
        if as_json:
            print_json({"name": name, "files": files})
            return
        for path in files.values():
            say(f"{path}: verified")
    elif as_json:
        print_json([facts(c) for c in cards.values()] if name is None else facts(cards[name]))
    elif name is not None:
        _wide().print(Markdown(_without_front_matter(cards[name].to_markdown())))
    else:
        header = ("name", "sensors", "embedding", "params", "licence", "proved on")
        _wide().print(rows_table("Encoders", header, [_row(card) for card in cards.values()]))
        out.print(
            "deepsentinel encoders NAME shows a card: bands, units, training, scores, limits, and "
            "what its row was proved on."
        )


def _wide() -> Console:
    """Where no terminal sets a width, nothing is folded: a pin cut short is none."""
    return out if out.is_terminal else Console(width=240)


def _row(card: "Card") -> tuple[object, ...]:
    params = f"{card.parameters / 1e6:.1f} M" if card.parameters else None
    sensors = "+".join(card.sensors)
    return card.name, sensors, card.embed_dim, params, card.licence, card.proved_on


def _without_front_matter(text: str) -> str:
    return text.split("---\n", 2)[2] if text.startswith("---\n") else text
