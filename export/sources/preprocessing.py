"""How a source's own preprocessing makes an image what its network takes, and what a user says instead."""

from __future__ import annotations

from dataclasses import dataclass, replace

from export.sources.source import Order, SourceError, SourceOptions
from latentserve.inputs import ImageInput, Resize


@dataclass(frozen=True)
class Preprocessing:
    """Of images.

    Attributes:
        size: height and width.
        resize: how files of other sizes become such images.
        mean: of each channel, of values between 0 and 1.
        std: of each channel.
        order: of the colours.
        channels: 1 or 3.
    """

    size: tuple[int, int]
    resize: Resize = Resize()  # noqa: RUF009 (frozen)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: Order = "RGB"
    channels: int = 3

    @property
    def input(self) -> ImageInput:
        """What the service takes.

        Raises:
            SourceError: no image can be such.
        """
        try:
            return ImageInput(*self.size, self.channels, resize=self.resize)
        except ValueError as error:
            raise SourceError(str(error)) from error

    def said_by(self, options: SourceOptions) -> Preprocessing:
        """With what the user says instead.

        Raises:
            SourceError: a mean or deviation for another number of channels, or a deviation of 0.
        """
        chosen = replace(
            self,
            size=options.image_size or self.size,
            resize=self._resize(options),
            mean=self.mean if options.mean is None else self._for_each(options.mean),
            std=self.std if options.std is None else self._for_each(options.std),
            order=options.order or self.order,
        )
        for name, values in (("mean", chosen.mean), ("std", chosen.std)):
            if values is not None and len(values) != self.channels:
                raise SourceError(f"{name}: got {len(values)} numbers, expected {self.channels}, one for each channel")
        if chosen.std is not None and min(chosen.std) <= 0:
            raise SourceError(f"std: got {min(chosen.std):g}, expected more than 0")
        if chosen.order == "BGR" and self.channels != 3:
            raise SourceError(f"order: got BGR for images of {self.channels} channels, expected 3 of them")
        return chosen

    def _for_each(self, said: tuple[float, ...]) -> tuple[float, ...]:
        """One number is that of all channels."""
        return said * self.channels if len(said) == 1 else said

    def _resize(self, options: SourceOptions) -> Resize:
        """A shorter side is said of one size: of another it grows with it."""
        how = options.resize or self.resize.how
        side = options.shorter_side
        if side is None and how == self.resize.how and self.resize.shorter_side is not None:
            grown = min(options.image_size or self.size) / min(self.size)
            side = max(round(self.resize.shorter_side * grown), min(options.image_size or self.size))
        try:
            return replace(self.resize, how=how, shorter_side=side, filter=options.filter or self.resize.filter)
        except ValueError as error:
            raise SourceError(str(error)) from error
