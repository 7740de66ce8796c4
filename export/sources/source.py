"""What a source gives, and what a user may say about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

from latentserve.inputs import AudioInput, ImageInput
from training.data.sizes import parsed
from training.methods.encoding import Encoder

Order = Literal["RGB", "BGR"]
Layout = Literal["NCHW", "NHWC"]
Scale = Literal["unit", "integers"]


LARGEST = {"image_size": 4096, "shorter_side": 4096, "sample_rate_hz": 2**24, "num_samples": 2**24}
"""Of options: a slip of the keyboard takes no 100 GB."""


SIZE: PrimitiveConstructorSpec[Any] = PrimitiveConstructorSpec(
    nargs=1,
    metavar="SIZE|HEIGHTxWIDTH",
    instance_from_str=lambda given: parsed(given[0]),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: ["None" if value is None else "x".join(map(str, value))],
)
"""As `--image-size` of training."""


class SourceError(ValueError):
    """The encoder cannot be taken over. The message says what was got, what was expected and what to do."""


@dataclass(frozen=True)
class SourceOptions:
    """What a user says about an encoder; None: what the source says itself, or else the default.

    Attributes:
        embedding: `auto`, `cls`, `mean` (of tokens those of places, where the source or the image's shape tells which
            these are), `pooled`, or the name of a tensor (of an ONNX file), which may be followed by `:cls` or `:mean`.
        patches: `auto`, or the name of the tensor that holds a vector for each place; None: no patches.
        normalise: whether the embedding is scaled to length 1.
        image_size: height and width: 96, or 64x96.
        resize: crop, fit or stretch: what becomes of images of another shape.
        shorter_side: of `crop`: to what the shorter side is resized before the centre is cut out.
        filter: that images are resized with.
        mean: of each channel, in the network's order of colours and on its scale; one number is that of all channels.
        std: likewise.
        order: of the colours.
        scale: of the numbers that an ONNX file takes, before mean and std: `unit`: 0 to 1, of waveforms -1 to 1;
            `integers`: 0 to 255, of waveforms -32768 to 32767. None: integers if a mean or std is above 1.
        layout: of an ONNX file's images.
        sample_rate_hz: of waveforms.
        num_samples: of waveforms.
    """

    embedding: str = "auto"
    patches: str | None = None
    normalise: bool = False
    image_size: Annotated[tuple[int, int] | None, SIZE] = None
    resize: Literal["crop", "fit", "stretch"] | None = None
    shorter_side: int | None = None
    filter: Literal["bilinear", "bicubic", "lanczos"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: Order | None = None
    scale: Scale | None = None
    layout: Layout | None = None
    sample_rate_hz: int | None = None
    num_samples: int | None = None

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            said = getattr(self, name)
            values = said if isinstance(said, tuple) else () if said is None else (said,)
            if not all(1 <= value <= most for value in values):
                raise SourceError(f"{name}: got {' x '.join(map(str, values))}, expected 1 to {most}")


@dataclass(frozen=True)
class Network:
    """An encoder as its source gave it.

    Attributes:
        model: takes float images, 0 to 1 (mean and standard deviation are its own affair), or waveforms.
        input: what one row is, and how files become rows: as the source's own preprocessing has it.
        source: as the user wrote it.
        weights_sha256: of the file, or of the tensors where there is no file.
        licence: its text as far as it is known, or an empty text.
        versions: of the libraries it came from.
    """

    model: Encoder
    input: ImageInput | AudioInput
    source: str
    weights_sha256: str
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)
