"""Reads keys from Vault beside the queue: a few threads, and one that finds out when Vault is back.

They touch neither the database nor anything of a tenant but the names they are given.
"""

import logging
import queue
import threading
from collections.abc import Iterator
from enum import Enum
from uuid import UUID

from devices.services.vault.secret_store import SecretMissing, SecretStore, SecretsUnavailable

logger = logging.getLogger(__name__)

_THREADS = 4
_PAUSE_SECONDS = 1.0

Name = tuple[str, UUID, int]  # (schema, device, version)


class Failure(Enum):
    """Vault could not be asked."""

    FAILED = "failed"


FAILED = Failure.FAILED
Answer = tuple[Name, "bytes | Failure | None"]


class KeyReader:
    """Questions in, answers out; both by one thread. Every question is answered, also while Vault is away."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._questions: queue.SimpleQueue[Name | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._away = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()

    @property
    def is_away(self) -> bool:
        """Whether Vault did not answer the last time it was asked."""
        return self._away.is_set()

    def ask(self, name: Name) -> None:
        """Have the key read."""
        if not self._threads:
            self._threads = [self._start(self._work, f"key-reader-{n}") for n in range(_THREADS)]
        self._questions.put(name)

    def answers(self, wait: float) -> Iterator[Answer]:
        """What has been read; up to `wait` seconds for the first."""
        try:
            yield self._answers.get(wait > 0, wait or None)
            while True:
                yield self._answers.get_nowait()
        except queue.Empty:
            return

    def close(self) -> None:
        """End the threads; a question that is under way is still answered."""
        self._closed.set()
        for _ in self._threads:
            self._questions.put(None)
        self._threads = []

    def _start(self, target: object, name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _work(self) -> None:
        while (name := self._questions.get()) is not None:
            self._answers.put((name, self._read(name)))

    def _read(self, name: Name) -> bytes | Failure | None:
        if self.is_away:
            return FAILED
        try:
            return self._store.read(*name).secret.encode()
        except SecretMissing:
            return None
        except SecretsUnavailable as error:
            self._lose(name, error)
        except Exception:  # the edge of the thread: a question without an answer would be waited for
            logger.exception("A key cannot be read")
        return FAILED

    def _lose(self, name: Name, error: SecretsUnavailable) -> None:
        with self._lock:
            if self.is_away:
                return
            self._away.set()
        logger.warning("%s; keys in memory stay in use", error)
        self._start(lambda: self._await_return(name), "vault-probe")

    def _await_return(self, name: Name) -> None:
        """Ask for the same key once a second until there is any answer."""
        while not self._closed.wait(_PAUSE_SECONDS):
            try:
                self._store.read(*name)
            except SecretsUnavailable:
                continue
            except SecretMissing:
                pass
            except Exception:  # the edge of the thread: without it nobody would see that Vault is back
                logger.exception("Vault cannot be probed")
                continue
            self._away.clear()
            logger.info("Vault answers again")
            return
