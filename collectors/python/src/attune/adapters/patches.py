"""What is patched outside of models (functions of a modeling file, say) while tunings need it."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any

Patch = Callable[[], Callable[[], None]]
"""Patches something, and returns what restores it."""


class _Patches:
    """Counts who needs each patch: the first makes it, the last one's end restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[Hashable, tuple[int, Callable[[], None]]] = {}
        self._left: deque[Hashable] = deque()

    def enter(self, key: Hashable, patch: Patch) -> None:
        with self._lock:
            users, restore = self._users.get(key) or (0, patch())
            self._users[key] = (users + 1, restore)
        self._settle()

    def leave(self, key: Hashable) -> None:
        """The garbage collector may call it at any moment, in a thread that holds the lock too."""
        self._left.append(key)
        self._settle()

    def _settle(self) -> None:
        # Who holds the lock looks again after letting it go.
        while self._left and self._lock.acquire(blocking=False):
            try:
                key = self._left.popleft()
                users, restore = self._users[key]
                if users > 1:
                    self._users[key] = (users - 1, restore)
                else:
                    del self._users[key]
                    restore()
            except IndexError:  # another thread was faster
                pass
            finally:
                self._lock.release()


_patches = _Patches()


def _leave(patches: _Patches, keys: list[Hashable]) -> None:
    for key in keys:
        patches.leave(key)


class Claim:
    """One tuning's on the patches that its module needs, until it ends or is collected.

    It goes with the tuning: a copy of a model (deepcopy, pickle) has a claim of its own.

    Args:
        needs: What patches `what` takes, each with what it is known by; a function of a module, so
            that it can be pickled.
        what: Something that copies as itself and can be pickled: a name, a class.
    """

    def __init__(self, needs: Callable[[Any], Iterable[tuple[Hashable, Patch]]], what: Any) -> None:
        self._made_of = (needs, what)
        keys: list[Hashable] = []
        self._end = weakref.finalize(self, _leave, _patches, keys)
        self._end.atexit = False
        for key, patch in needs(what):
            _patches.enter(key, patch)
            keys.append(key)

    def end(self) -> None:
        """Once; later calls do nothing."""
        self._end()

    def __reduce__(self) -> tuple[Any, ...]:
        return Claim, self._made_of
