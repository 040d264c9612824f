"""Rings through a real server, and into nothing."""

from __future__ import annotations

import json
from pathlib import Path

import redis

from broker import embedded
from broker.app import QUEUES, celery_app, ring_task
from broker.ring import ring
from broker.settings import BrokerSettings


class TestRing:
    def test_puts_one_message_by_task_name_on_the_queue(self, tmp_path: Path) -> None:
        settings = BrokerSettings(home=tmp_path)
        running = embedded.start(settings)
        try:
            assert ring("train", settings)
            with redis.Redis(unix_socket_path=str(settings.socket)) as client:
                messages = [json.loads(text) for text in client.lrange("train", 0, -1)]
                assert [m["headers"]["task"] for m in messages] == [ring_task("train")]
                assert client.llen("light") == client.llen("generate") == 0
        finally:
            running.stop()

    def test_without_a_server_it_says_so_and_raises_nothing(self, tmp_path: Path) -> None:
        assert ring("light", BrokerSettings(home=tmp_path)) is False

    def test_with_a_broker_url_nobody_can_read_it_raises_nothing(self) -> None:
        assert ring("light", BrokerSettings(broker_url="nonsense://here")) is False

    def test_works_again_after_the_server_came_back(self, tmp_path: Path) -> None:
        settings = BrokerSettings(home=tmp_path)
        first = embedded.start(settings)
        assert ring("generate", settings)
        first.stop()
        assert not ring("generate", settings)
        second = embedded.start(settings)
        try:
            assert ring("generate", settings)
        finally:
            second.stop()


class TestCeleryApp:
    def test_acknowledges_early_and_takes_one_message_at_a_time(self) -> None:
        conf = celery_app("any").conf
        assert conf.task_acks_late is False
        assert conf.worker_prefetch_multiplier == 1
        assert conf.worker_disable_prefetch is True

    def test_accepts_json_only(self) -> None:
        assert celery_app("any").conf.accept_content == ["json"]

    def test_every_queue_has_its_own_ring(self) -> None:
        assert len({ring_task(queue) for queue in QUEUES}) == len(QUEUES) == 3
