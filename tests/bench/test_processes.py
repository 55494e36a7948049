"""Ports for servers that take their time to start."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from bench import processes
from bench.processes import free_ports


def test_the_kernel_gives_free_ports_to_nobody_else() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    with ExitStack() as stack:
        given = [stack.enter_context(socket.socket()) for _ in range(200)]
        for each in given:
            each.bind(("127.0.0.1", 0))
        assert max(ports) < min(each.getsockname()[1] for each in given)
        for port in ports:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))


def test_a_port_in_use_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "NUM_PORTS", 4)
    with socket.socket() as holder:
        taken, *left = free_ports(4)
        holder.bind(("127.0.0.1", taken))
        assert sorted(free_ports(4)) == sorted(left)
