"""The tests themselves: no network, one thread."""

import os
import socket

import pytest
import torch


def test_no_test_reaches_the_network():
    with socket.socket() as far, pytest.raises(RuntimeError, match="without a network"):
        far.connect(("192.0.2.1", 80))


def test_a_local_server_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as near:
        near.connect(server.getsockname())


def test_one_thread_and_an_own_cache(tmp_path):
    assert torch.get_num_threads() == 1
    assert os.environ["UNSPOKEN_CACHE"].startswith(str(tmp_path))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
