"""A frozen, killed and restarted Redis: the first command waits, the following ones fail at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from statistics import median

import pytest
from django_redis import get_redis_connection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.redis_breaker import Breaker, BreakerPool, RedisUnavailable
from tests.redis_recovery import wait_for_redis

pytestmark = pytest.mark.slow

# The settings' own time limit, and what a busy machine adds.
STALL_SECONDS = 0.5 + 10


@pytest.fixture
def frozen(stack: EmbeddedStack) -> Iterator[None]:
    get_redis_connection("default").ping()
    stack.signal("valkey", signal.SIGSTOP)
    yield
    stack.signal("valkey", signal.SIGCONT)
    wait_for_redis()


def probes() -> set[threading.Thread]:
    """Return the threads that probe a Redis; those of other tests may run for ever."""
    return {thread for thread in threading.enumerate() if thread.name == "redis-probe"}


def test_a_frozen_redis_is_waited_for_once(frozen: None) -> None:
    redis = get_redis_connection("default")
    began = time.monotonic()
    with pytest.raises(RedisTimeout):
        redis.ping()
    assert time.monotonic() - began < STALL_SECONDS
    began = time.monotonic()
    for _ in range(200):
        with pytest.raises(RedisUnavailable):
            redis.ping()
        with pytest.raises(RedisUnavailable):
            redis.pipeline(transaction=False).ping().execute()
    assert time.monotonic() - began < 20, "400 later commands do not wait"


def test_it_stays_open_while_redis_is_frozen_and_closes_afterwards(frozen: None, stack: EmbeddedStack) -> None:
    redis = get_redis_connection("default")
    others = probes()
    with pytest.raises(RedisTimeout):
        redis.ping()
    assert probes() - others
    until = time.monotonic() + 2.0
    delays = []
    while time.monotonic() < until:
        began = time.monotonic()
        with pytest.raises(RedisUnavailable):
            redis.ping()
        delays.append(time.monotonic() - began)
        time.sleep(0.02)
    assert median(delays) < 0.4, "a probe does not delay a command"
    stack.signal("valkey", signal.SIGCONT)
    began = time.monotonic()
    wait_for_redis()
    assert time.monotonic() - began < 30
    assert not probes() - others


def test_a_redis_that_is_down_and_back(stack: EmbeddedStack) -> None:
    redis = get_redis_connection("default")
    redis.set("breaker", "kept")
    stack.kill("valkey")
    with pytest.raises(RedisError):
        redis.ping()
    stack.wait_ready("valkey", 15)
    wait_for_redis()
    assert redis.ping()


def test_an_error_that_redis_answers_opens_nothing() -> None:
    redis = get_redis_connection("default")
    redis.set("breaker", "text")
    with pytest.raises(ResponseError):
        redis.hget("breaker", "field")
    assert isinstance(redis.connection_pool, BreakerPool)
    assert not redis.connection_pool.breaker.is_open
    assert redis.get("breaker") == b"text"


def test_who_forks_asks_anew() -> None:
    """A child has no thread that would close what its parent opened."""
    answered = threading.Event()

    def probe() -> None:
        if not answered.is_set():
            raise ConnectionError("not yet")

    breaker = Breaker(probe)
    breaker.open(ConnectionError("lost"))
    assert breaker.is_open
    child = os.fork()
    if child == 0:
        os._exit(7 if breaker.is_open else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert breaker.is_open
    answered.set()
    deadline = time.monotonic() + 60
    while breaker.is_open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not breaker.is_open


def test_one_thread_asks_however_many_were_let_down() -> None:
    asked = threading.Event()
    answer = threading.Event()

    def probe() -> None:
        asked.set()
        answer.wait(60)

    breaker, others = Breaker(probe), probes()
    threads = [threading.Thread(target=breaker.open, args=(ConnectionError("lost"),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked.wait(60)
    assert len(probes() - others) == 1
    answer.set()
