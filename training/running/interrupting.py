"""Ctrl-C that is not lost.

Python drops an exception that is raised where none can be, as while an object is thrown away, and goes on. A training
then goes on for hours after somebody stopped it. So that it was asked is kept, and said again after the batch.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from torch import Tensor

from training.lightning import Callback, LightningModule, Trainer


class Interrupting(Callback):
    """Within, Ctrl-C raises KeyboardInterrupt at once, as ever, and at the latest after the batch.

    Who has set a handler of their own, or ignores the signal, keeps what they have.
    """

    def __init__(self) -> None:
        self.asked = False
        self._ours = False

    def __enter__(self) -> Self:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self._ours = usual and threading.current_thread() is threading.main_thread()
        if self._ours:
            signal.signal(signal.SIGINT, self._on)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours and signal.getsignal(signal.SIGINT) == self._on:  # Lightning ignores it once it has heard it
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.default_int_handler(signum, frame)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor | Any, batch: Any, batch_idx: int
    ) -> None:
        """Raises what was lost."""
        if self.asked:
            raise KeyboardInterrupt
