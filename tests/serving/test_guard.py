"""Who may ask: keys, and without them this machine alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.conftest import Running, Serve, body
from tests.serving.models import scripted
from tests.serving.test_requests import is_refused
from unspoken.errors import SealError, SettingsError
from unspoken.serving import Guard, read_keys
from unspoken.serving.guard import KEYS

HI = ("user", "hi")
KEY = "a-key-that-is-long-enough"

FOREIGN: list[dict[str, str]] = [
    {"X-Forwarded-For": "10.0.0.1"},
    {"x-forwarded-host": "evil.example"},
    {"Forwarded": "for=10.0.0.1"},
    {"X-Real-IP": "10.0.0.1"},
    {"Via": "1.1 proxy"},
    {"Host": "evil.example"},
    {"Host": "evil.example:8000"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost@evil.example"},
    {"Host": "10.0.0.1"},
    {"Host": "0.0.0.0"},
    {"Host": "[::"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "file://"},
]
NEAR: list[dict[str, str]] = [
    {"Host": "localhost"},
    {"Host": "LOCALHOST:8000"},
    {"Host": "127.0.0.2:1"},
    {"Host": "[::1]:8000"},
    {"Origin": "http://localhost:3000"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_without_keys_what_comes_from_elsewhere_is_refused(
    tiny_server: Running, headers: dict[str, str]
) -> None:
    for response in (
        tiny_server.post(body(HI), headers=headers),
        tiny_server.get("/v1/models", headers=headers),
        tiny_server.get("/metrics", headers=headers),
    ):
        assert is_refused(response, 403)


@pytest.mark.parametrize("headers", NEAR, ids=str)
def test_without_keys_this_machine_is_answered(
    tiny_server: Running, headers: dict[str, str]
) -> None:
    assert tiny_server.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x"]
)
def test_a_wrong_key_is_refused(serve: Serve, header: str) -> None:
    running = serve(scripted("yes"), keys=[KEY])
    headers = {"Authorization": header}
    for response in (
        running.post(body(HI), headers=headers),
        running.get("/v1/models", headers=headers),
        running.get("/metrics", headers=headers),
    ):
        assert is_refused(response, 401)
        assert KEY not in response.text
    assert running.get("/health", headers=headers).status_code == 200
    assert running.chat(HI).choices[0].message.content == "yes"
    assert running.post(body(HI), headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 200


def test_a_key_is_in_no_name(serve: Serve) -> None:
    running = serve(scripted("yes"), keys=[KEY])
    running.chat(HI)
    told = f"{running.service.guard.owners} {vars(running.service.guard)} {running.get('/metrics')}"
    assert KEY not in told


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_without_keys_a_server_is_on_loopback(host: str) -> None:
    with pytest.raises(SettingsError, match="keys"):
        Guard([], host)
    Guard([KEY], host)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "no key"),
        ("# none\n\n", "no key"),
        ("short", "key 1"),
        (f"{KEY}\nwith a space inside", "key 2"),
        ("ключ-который-длинный", "key 1"),
    ],
)
def test_a_file_of_keys_is_checked(tmp_path: Path, words: str, problem: str) -> None:
    file = tmp_path / "keys"
    file.write_text(words, encoding="utf-8")
    with pytest.raises(SealError, match=problem) as refused:
        read_keys(file)
    assert "inside" not in str(refused.value)


def test_keys_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ada\n{KEY}\n\n{KEY}2 \n{KEY}\n")
    assert read_keys(file) == (KEY, f"{KEY}2")
    monkeypatch.delenv(KEYS, raising=False)
    assert read_keys(None) == ()
    monkeypatch.setenv(KEYS, f"{KEY} {KEY}3")
    assert read_keys(None) == (KEY, f"{KEY}3")
    monkeypatch.setenv(KEYS, "")
    with pytest.raises(SealError, match="no key"):
        read_keys(None)
    with pytest.raises(SealError, match="cannot be read"):
        read_keys(tmp_path / "nowhere")
