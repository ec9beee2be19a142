"""Other values have other content, equal values the same, and what has none is refused."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from pydantic import BaseModel, PrivateAttr
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from unspoken.channels import TextChannel
from unspoken.errors import NoIdentity, UnspokenError
from unspoken.evaluation.content import content
from unspoken.testing import tiny_backbone


def found(value: Any) -> str:
    return json.dumps(content(value, "mine"))


class Colour(Enum):
    RED = 1
    BLUE = 2


class Tone(Enum):
    RED = 1


class Pair(NamedTuple):
    one: int
    two: int


@dataclass
class Point:
    x: Any
    hidden: Any = field(default=None, compare=False, repr=False)


@dataclass
class Place:
    x: Any
    hidden: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Any


class Options(BaseModel):
    size: int = 1
    _secret: int = PrivateAttr(default=0)


class Held:
    """A class of no known kind."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Telling(Held):
    def __getstate__(self) -> Any:
        return self.value


class Channelled(TextChannel):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    @cached_property
    def table(self) -> list[int]:
        return [1, 2, 3]


class Child(Channelled):
    pass


class Private(TextChannel):
    __slots__ = ("__value", "more")

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.__value = value


class Scaled(nn.Module):
    def __init__(self, scale: float = 1.0, table: Tensor | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(2, 2)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("table", table, persistent=False)


class Same(Scaled):
    pass


def twice(values: Any, by: int = 2) -> Any:
    return values * by


def thrice(values: Any, by: int = 3) -> Any:
    return values * by


def odd(place: int, by: float = 1.0) -> Tensor:
    values = torch.zeros(2000)
    values[place] = by
    return values


def private(secret: int) -> Options:
    made = Options()
    made._secret = secret
    return made


def hooked(hook: Any) -> Scaled:
    made = Scaled()
    made.register_forward_pre_hook(hook)
    return made


def tokenizer(word: str) -> Tokenizer:
    return Tokenizer(models.WordLevel({word: 0, "[UNK]": 1}, unk_token="[UNK]"))


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


SIBLINGS: list[list[Any]] = [
    [None, False, True, 0, 1, 0.0, -0.0, 1.0, math.nan, math.inf, "", "0", "None", "nan", 1j],
    [b"", b"0", b"\x00", [], (), {}, set(), [[]], [()], ["list", []], Path("a"), Path("b"), "a"],
    [frozenset({1}), {1}, {2}, [1], (1,), {1: 1}, {1: 2}, {2: 1}, {"1": 1}, OrderedDict({1: 1})],
    [OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), {"a": 1, "b": 2}],
    [Pair(1, 2), Pair(2, 1), (1, 2), torch.Size([1, 2])],
    [{"deep": [1, [2, {"list": [3, 4]}]]}, {"deep": [1, [2, {"list": [3, 5]}]]}],
    [Colour.RED, Colour.BLUE, Tone.RED, 1, "RED", Colour, Tone],
    [torch.zeros(2000), odd(7), odd(1234), odd(1234, 2.0), odd(1234).bfloat16(), odd(3).half()],
    [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(6, dtype=torch.int32)],
    [torch.zeros(0), torch.zeros(0, 1), torch.zeros(()), torch.tensor(0), torch.tensor(False)],
    [torch.tensor([0.0]), torch.tensor([-0.0]), torch.tensor([math.nan]), np.zeros(1, np.float32)],
    [
        torch.complex(odd(0), odd(1)),
        torch.complex(odd(0), odd(1)).conj(),
        torch.float32,
        torch.half,
    ],
    [torch.device("cpu"), torch.device("cuda"), torch.device("cuda:1"), "cpu"],
    [np.arange(2000), np.arange(2000) + np.eye(1, 2000, 1234, dtype=int)[0]],
    [np.zeros(4, "<i4"), np.zeros(4, ">i4"), np.zeros((2, 2), "<i4"), np.zeros(4, "<f4")],
    [np.zeros(2, "i4,i4"), np.zeros(2, [("a", "i4"), ("b", "i4")]), np.float32(1), np.float64(1)],
    [np.array(["a"]), np.array(["b"]), np.array(["a", "a"])],
    [Point(1), Point(2), Place(1), Point(1, hidden=1), Point(Point(1)), Point([1]), Slotted(1)],
    [Slotted(2), Slotted(odd(1)), Slotted(odd(2))],
    [Options(), Options(size=2), private(3)],
    [Channelled(1), Channelled(2), Child(1), TextChannel(), TextChannel(limit=1)],
    [Private(1), Private(2)],
    [Telling(1), Telling([1]), Telling(odd(1))],
    [Scaled(), Scaled(2.0), Same(), Scaled(table=odd(1)), Scaled(table=odd(2)), Scaled().eval()],
    [Scaled(), hooked(twice), hooked(thrice), Scaled().bfloat16()],
    [twice, thrice, partial(twice), partial(twice, by=2), partial(twice, by=3), partial(twice, 3)],
    [len, math.sqrt, torch.nn.functional.relu, Held, Point],
    [tokenizer("a"), tokenizer("b")],
    [tiny_backbone(), tiny_backbone(seed=1), tiny_backbone("gemma")],
]


@pytest.mark.parametrize("siblings", SIBLINGS, ids=lambda values: type(values[0]).__name__)
def test_siblings_differ_and_each_is_as_before(siblings: list[Any]):
    for one, two in combinations(siblings, 2):
        assert found(one) != found(two), (one, two)
    for one in siblings:
        assert found(one) == found(one)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a", "b", "c"}, {"c", "a", "b"}),
        ({(1, 2): {"x", "y"}}, {(1, 2): {"y", "x"}}),
        (odd(5), odd(5).clone()),
        (odd(5), nn.Parameter(odd(5))),
        (torch.arange(6).view(2, 3).T, torch.arange(6).view(2, 3).T.contiguous()),
        (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
        (math.nan, float("nan")),
        (Options(), Options(size=1)),
        (Scaled(), Scaled()),
        (tiny_backbone(), tiny_backbone()),
    ],
    ids=lambda one: type(one).__name__,
)
def test_equal_values_have_equal_content(one: Any, two: Any):
    assert found(one) == found(two)


def test_bfloat16_counts_by_its_bytes():
    assert found(torch.ones(3, dtype=torch.bfloat16)) == found(torch.ones(3).bfloat16())
    assert found(torch.ones(3).bfloat16()) != found(torch.ones(3).half())


def test_content_is_the_same_in_another_process():
    sets = "{'a': set('abcdefghij'), 'b': frozenset('klmnopqrst')}"  # in another order there
    value = f"{{**{sets}, 'c': torch.arange(5), 'd': len}}"
    code = "import torch\nfrom unspoken.evaluation.content import content\n"
    out = subprocess.run(
        [sys.executable, "-c", f"{code}print({sets})\nprint(content({value}, ''))"],
        env={"PYTHONHASHSEED": "1", "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    order, found = out.splitlines()
    assert order != str(eval(sets))
    assert found == str(content(eval(value), ""))  # a value of this test


def test_what_a_cached_property_keeps_is_left_out():
    channel = Channelled(1)
    before = found(channel)
    assert channel.table
    assert "table" in vars(channel)
    assert found(channel) == before


def test_what_is_used_twice_is_no_circle():
    shared = [1]
    assert found([shared, shared]) == found([[1], [1]])


def looped(kind: str) -> Any:
    values: Any = [1]
    values.append(values)
    named: Any = {"a": 1}
    named["b"] = named
    point = Point(1)
    point.x = [point]
    channel = Channelled(1)
    channel.value = {"me": channel}
    return {"list": values, "dict": named, "dataclass": point, "channel": channel}[kind]


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("list", r"`\[1\]` of mine"),
        ("dict", r"`\['b'\]` of mine"),
        ("dataclass", r"`x\[0\]` of mine"),
        ("channel", r"`value\['me'\]` of mine"),
    ],
)
def test_what_holds_itself_is_refused(kind: str, where: str):
    with pytest.raises(NoIdentity, match=rf"^{where} holds itself"):
        content(looped(kind), "mine")


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Held(1), "test_content.Held"),
    (object, "builtins.object"),
    (threading.Lock, "lock"),
    (lambda: defaultdict(list), "defaultdict"),
    (lambda: iter([1]), "list_iterator"),
    (lambda: np.array([object()]), "numpy.ndarray"),
    (lambda: np.ma.array([1, 2], mask=[True, False]), "MaskedArray"),
    (lambda: torch.ones(2, device="meta"), "torch.Tensor"),
    (lambda: torch.eye(2).to_sparse(), "torch.Tensor"),
    (quantised, "torch.Tensor"),
    (torch.Generator, "torch._C.Generator"),
    (lambda: re.compile("a"), "re.Pattern"),
]


@pytest.mark.filterwarnings("ignore")  # torch warns of quantised tensors
@pytest.mark.parametrize(("make", "kind"), REFUSED, ids=[kind for _, kind in REFUSED])
def test_what_has_no_content_is_refused_by_its_place_and_type(
    make: Callable[[], Any], kind: str
) -> None:
    value = Channelled({"deep": [0, make()]})
    with pytest.raises(NoIdentity) as refused:
        content(value, "channel 'odd' from 'a' to 'b'")
    words = str(refused.value)
    assert words.startswith("`value['deep'][1]` of channel 'odd' from 'a' to 'b' is of type ")
    assert kind in words.partition(", and two of these")[0]
    assert "`__getstate__`" in words
    assert isinstance(refused.value, UnspokenError)
    assert isinstance(refused.value, TypeError)


def test_functions_and_classes_without_a_name_of_their_own_are_refused():
    def near(values: Any) -> Any:
        return values

    class Near(Channelled):
        pass

    for value in (lambda: 0, near, Near, Near(1), partial(near), [twice, near], Held(1).__init__):
        with pytest.raises(NoIdentity, match=r"mine"):
            content(value, "mine")
    with pytest.raises(NoIdentity, match=r"function .*<lambda>, which cannot be imported"):
        content(hooked(lambda *_: None), "mine")


class Renamed(TextChannel):
    name: ClassVar[str] = "renamed"


def test_a_class_that_another_has_replaced_is_refused(monkeypatch: pytest.MonkeyPatch):
    channel = Renamed()
    assert found(channel)
    again = type("Renamed", (TextChannel,), {"__module__": __name__})
    monkeypatch.setattr(sys.modules[__name__], "Renamed", again)
    with pytest.raises(NoIdentity, match=r"class tests.evaluation.test_content.Renamed"):
        content(channel, "mine")
    assert found(again())
