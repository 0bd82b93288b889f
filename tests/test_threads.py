"""In which threads a request is served."""

from typing import Any

import pytest
from asgiref.sync import SyncToAsync, async_to_sync
from django.conf import LazySettings
from django.test import AsyncClient


def _hops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a request to the login page goes from the event loop to its thread for."""
    hops: list[str] = []
    call = SyncToAsync.__call__

    async def note(self: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(getattr(self.func, "__qualname__", ""))
        return await call(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SyncToAsync, "__call__", note)
        assert async_to_sync(AsyncClient().get)("/admin/login/").status_code == 200
    return hops


def test_the_middleware_runs_in_one_go(db: None, monkeypatch: pytest.MonkeyPatch, settings: LazySettings) -> None:
    hops = _hops(monkeypatch)
    # Outside of what serves static files, which is asynchronous.
    outside = ["SecurityMiddleware.process_request", "SecurityMiddleware.process_response"]
    assert [hop for hop in hops if "Middleware.process_re" in hop] == outside

    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if name != "config.threads.stay_in_thread"]
    assert len(_hops(monkeypatch)) > 2 * len(hops)
