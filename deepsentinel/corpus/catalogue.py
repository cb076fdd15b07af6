"""Corpora that are known by name: where they were published, what they hold, what is not known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepsentinel.bands import Sensor
from deepsentinel.errors import UnknownNameError, nearest

_HOME: Final = "https://github.com/Lkruitwagen/deepsentinel"
_STATE: Final = (
    "published 2020-21 in requester-pays storage; whether it still answers is not known to us"
)
_CITATION: Final = (
    "Kruitwagen, L. (2021): Towards DeepSentinel: An extensible corpus of labelled Sentinel-1 and "
    "-2 imagery and a general-purpose sensor-fusion semantic embedding model. arXiv:2102.06260"
)
_AZURE: Final = (
    "the name of the storage account was not published: pass storage_options={'account_name': ...}"
)


@dataclass(frozen=True, kw_only=True)
class CatalogueRow:
    """One corpus that opens by its name."""

    name: str
    description: str
    patches: int
    """As its authors state; not counted by us."""
    patch_size: int = 256
    sensors: tuple[Sensor, ...] = ("s1", "s2")
    labels: tuple[str, ...] = ()
    area: str
    dates: str
    """First and last day of sampling."""
    layout: str = "deepsentinel"
    """The kind of source that `convert` reads it as."""
    locations: Mapping[str, str]
    """URL by provider."""
    notes: tuple[str, ...] = ()
    provenance: str
    """Where these facts were found."""
    licence: str | None = None
    """`None`: its authors state none for the data."""
    citation: str = _CITATION
    state: str = _STATE

    def location(self, provider: str) -> str:
        """The URL at one provider.

        Raises:
            UnknownNameError: it is not there.
        """
        if provider not in self.locations:
            known = nearest(provider, self.locations)
            raise UnknownNameError(f"corpus {self.name!r} is not on {provider!r}. {known}")
        return self.locations[provider]


def _original(
    name: str,
    *,
    patches: int,
    area: str,
    dates: str,
    labels: tuple[str, ...] = (),
    revision: str,
) -> CatalogueRow:
    """A row of the original project: one bucket and one container, a prefix a corpus."""
    titled = "labelled with CORINE" if labels else "unlabelled"
    return CatalogueRow(
        name=name,
        description=f"{patches:,} pairs of Sentinel-1 and -2, {titled}, {area}",
        patches=patches,
        area=area,
        dates=dates,
        labels=labels,
        locations={"google": f"gs://deepsentinel/{name}", "azure": f"az://deepsentinel/{name}"},
        notes=(f"Google: give requester_pays, the id of your project. Azure: {_AZURE}.",),
        provenance=f"{_HOME}, README.md ({revision}) and conf/DATA_CONFIG.yaml",
    )


_LAND = "land of the whole Earth but Antarctica"
CATALOGUE: Final = (
    _original(
        "DEMO_unlabelled",
        patches=10_000,
        area=_LAND,
        dates="2018-01-01/2019-01-05",
        revision="e62c983",
    ),
    _original(
        "DEMO_EU_labelled",
        patches=1_000,
        area="EU28",
        dates="2018-01-01/2019-01-05",
        labels=("corine",),
        revision="e62c983",
    ),
    _original(
        "100k_unlabelled",
        patches=100_000,
        area=_LAND,
        dates="2019-01-01/2020-01-05",
        revision="e62c983",
    ),
    _original(
        "v_1k_256px_nolabels",
        patches=1_000,
        area=_LAND,
        dates="2019-08-01/2019-09-17",
        revision="its first edition, 2020",
    ),
)


def list_catalogue() -> tuple[CatalogueRow, ...]:
    """Every corpus that opens by name.

    Example:
        >>> [row.name for row in list_catalogue()][:2]
        ['DEMO_unlabelled', 'DEMO_EU_labelled']
    """
    return CATALOGUE


def catalogue_row(name: str) -> CatalogueRow:
    """The corpus of that name.

    Raises:
        UnknownNameError: there is none; the nearest are listed.

    Example:
        >>> catalogue_row("DEMO_EU_labelled").location("google")
        'gs://deepsentinel/DEMO_EU_labelled'
    """
    for row in CATALOGUE:
        if row.name == name:
            return row
    raise UnknownNameError(
        f"the catalogue has no corpus {name!r}. {nearest(name, [row.name for row in CATALOGUE])}"
    )


def named(root: str | Path) -> str | Path:
    """The root itself or, where it is a name of the catalogue and no folder, its URL at Google.

    Example:
        >>> named("DEMO_unlabelled"), named("gs://bucket/corpus")
        ('gs://deepsentinel/DEMO_unlabelled', 'gs://bucket/corpus')
    """
    if isinstance(root, str) and not Path(root).exists():
        for row in CATALOGUE:
            if row.name == root:
                return row.location("google")
    return root
