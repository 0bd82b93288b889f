"""Threads that read keys from Vault beside the queue, and one that probes Vault while it is unavailable.

They use neither the database nor a tenant's data, only the names in their requests.
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
_PROBE_SECONDS = 1.0

KeyName = tuple[str, UUID, int]  # (schema, device, version)


class ReadFailure(Enum):
    """The answer for a key that could not be read, because Vault is unavailable."""

    FAILED = "failed"


FAILED = ReadFailure.FAILED
KeyAnswer = tuple[KeyName, "bytes | ReadFailure | None"]


class KeyReader:
    """Requests in, answers out; both by one thread. Every request is answered, also while Vault is unavailable."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._requests: queue.SimpleQueue[KeyName | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[KeyAnswer] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unavailable = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()

    @property
    def is_unavailable(self) -> bool:
        """Whether Vault did not answer the last request."""
        return self._unavailable.is_set()

    def request(self, name: KeyName) -> None:
        """Request a key; `answers` has it later."""
        if not self._threads:
            self._threads = [self._start(self._work, f"key-reader-{n}") for n in range(_THREADS)]
        self._requests.put(name)

    def answers(self, wait: float) -> Iterator[KeyAnswer]:
        """Yield the answers, waiting up to `wait` seconds for the first."""
        try:
            yield self._answers.get(wait > 0, wait or None)
            while True:
                yield self._answers.get_nowait()
        except queue.Empty:
            return

    def close(self) -> None:
        """End the threads; a request that is being served is still answered."""
        self._closed.set()
        for _ in self._threads:
            self._requests.put(None)
        self._threads = []

    def _start(self, target: object, name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _work(self) -> None:
        while (name := self._requests.get()) is not None:
            self._answers.put((name, self._read(name)))

    def _read(self, name: KeyName) -> bytes | ReadFailure | None:
        if self.is_unavailable:
            return FAILED
        try:
            return self._store.read(*name).secret.encode()
        except SecretMissing:
            return None
        except SecretsUnavailable as error:
            self._on_unavailable(name, error)
        except Exception:  # the edge of the thread: every request needs an answer
            logger.exception("A key could not be read")
        return FAILED

    def _on_unavailable(self, name: KeyName, error: SecretsUnavailable) -> None:
        with self._lock:
            if self.is_unavailable:
                return
            self._unavailable.set()
        logger.warning("%s; keys in memory stay in use", error)
        self._start(lambda: self._probe(name), "vault-probe")

    def _probe(self, name: KeyName) -> None:
        """Request the same key once a second until Vault answers."""
        while not self._closed.wait(_PROBE_SECONDS):
            try:
                self._store.read(*name)
            except SecretsUnavailable:
                continue
            except SecretMissing:
                pass
            except Exception:  # the edge of the thread: it must go on probing
                logger.exception("Vault could not be probed")
                continue
            self._unavailable.clear()
            logger.info("Vault is available again")
            return
