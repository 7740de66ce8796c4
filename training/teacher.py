"""A bundle as a teacher: what its encoder makes of rows, computed once.

The teacher runs in ONNX Runtime and sees each row at its own size, by its own resize rule, whatever size the student
takes. Its embeddings are scaled to length 1 and appended to a file in the run's folder, as many rows at a time as were
always computed together: a run that was interrupted goes on behind the last whole part, with the same bits.

Shape legend: N rows, V 2 where rows are also seen mirrored, else 1, H height, W width, C channels, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from latentserve import bundle
from latentserve.cpus import available_cpus, cpu_set
from latentserve.errors import BundleError
from latentserve.images import fit_image
from latentserve.inputs import INPUT, ImageInput
from training.data import AudioShape, ImageShape
from training.data.rows import Values

TARGETS = "targets.f16"
"""File of a run's folder, until the training is done."""
ROWS_AT_ONCE = 100
SMALLEST_LENGTH = 1e-12
EMBEDDING = "embedding"
NEEDS_ONNX_RUNTIME = "teacher: it runs in ONNX Runtime, which is not installed; install latentserve[serve-cpu]"


class TeacherError(ValueError):
    """The bundle cannot teach. The message says what was got, what was expected and what to do."""


@dataclass(frozen=True)
class Teacher:
    """A bundle whose encoder's embeddings are learned.

    Attributes:
        folder: of the bundle.
        manifest: of the bundle, whose files were verified.
    """

    folder: Path
    manifest: bundle.Manifest

    @classmethod
    def open(cls, folder: str | None) -> Teacher:
        """Reads and verifies a bundle.

        Raises:
            TeacherError: it is none, was changed, or embeds something else than images.
        """
        if folder is None:
            raise TeacherError("teacher: got none, expected the folder of a bundle, such as models/NAME/1")
        path = Path(folder)
        if not (path / bundle.MANIFEST).is_file():
            raise TeacherError(f"teacher: got {folder}, expected the folder of a bundle, such as models/NAME/1")
        try:
            manifest = bundle.load(path)
        except BundleError as error:
            raise TeacherError(f"teacher: {error}") from error
        if not isinstance(manifest.input, ImageInput):
            raise TeacherError(f"teacher: got {folder}, a bundle of {manifest.input.modality}, expected one of images")
        return cls(path, manifest)

    @property
    def sha256(self) -> str:
        """Of the encoder's graph."""
        return self.manifest.files[self.manifest.graphs["encoder"].file]

    @property
    def input(self) -> ImageInput:
        """What the encoder takes."""
        assert isinstance(self.manifest.input, ImageInput)  # see `open`
        return self.manifest.input

    @property
    def embedding_dim(self) -> int:
        """D."""
        return int(self.manifest.outputs[EMBEDDING].shape[0])

    def check_takes(self, shape: ImageShape | AudioShape) -> None:
        """Raises TeacherError unless it can be shown rows of this shape."""
        channels = shape.channels if isinstance(shape, ImageShape) else 0
        if channels != self.input.channels:
            raise TeacherError(
                f"teacher: got {self.folder}, whose images have {self.input.channels} channels, expected {channels}, as"
                " the data has"
            )

    @cached_property
    def session(self) -> Any:
        """The encoder in ONNX Runtime, on the CPU.

        Raises:
            TeacherError: ONNX Runtime is not installed, or cannot load the graph.
        """
        try:
            import onnxruntime as ort  # imported here: no other training needs it
        except ImportError as error:
            raise TeacherError(NEEDS_ONNX_RUNTIME) from error
        options = ort.SessionOptions()
        if (num := available_cpus()) < cpu_set():
            options.intra_op_num_threads = num
        file = self.folder / self.manifest.graphs["encoder"].file
        try:
            return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has classes of its own
            raise TeacherError(f"teacher: {file}: {str(error).splitlines()[0]}") from error

    def embed(self, rows_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings of length 1, float32 [N, D], of rows of any size.

        Raises:
            TeacherError: one is not finite.
        """
        seen_NHWC = np.stack([fit_image(row, self.input) for row in rows_NHWC])
        embedding_ND: NDArray[np.float32] = self.session.run([EMBEDDING], {INPUT: seen_NHWC})[0]
        if not np.isfinite(embedding_ND).all():
            raise TeacherError(f"teacher: got an embedding by {self.folder} that is not finite, expected numbers")
        length_N1 = np.linalg.norm(embedding_ND, axis=1, keepdims=True)
        embedding_ND /= np.maximum(length_N1, SMALLEST_LENGTH)
        return embedding_ND

    def targets(self, values: Values, file: Path, mirrored: bool) -> NDArray[np.float16]:
        """Embeddings of all rows, float16 [N, V, D], in a file that is gone on with if it is there.

        Args:
            values: uint8 [N, H, W, C].
            file: holds the embeddings.
            mirrored: whether the teacher sees the mirror image of each row, too.
        """
        views = 2 if mirrored else 1
        row_bytes = views * self.embedding_dim * np.dtype(np.float16).itemsize
        whole = file.stat().st_size // (row_bytes * ROWS_AT_ONCE) if file.exists() else 0
        done = min(whole * ROWS_AT_ONCE, len(values))
        if not file.exists() or file.stat().st_size != row_bytes * len(values):
            with file.open("ab") as out:
                out.truncate(done * row_bytes)
                for part_BVD in self._parts(values, done, mirrored):
                    out.write(part_BVD.tobytes())
        return np.memmap(file, np.float16, "r", shape=(len(values), views, self.embedding_dim))

    def _parts(self, values: Values, done: int, mirrored: bool) -> Iterator[NDArray[np.float16]]:
        """The embeddings of the rows behind the first `done`, as they are computed."""
        with tqdm(desc="teacher", total=len(values), initial=done, unit=" images") as bar:
            for start in range(done, len(values), ROWS_AT_ONCE):
                rows_BHWC = np.asarray(values[start : start + ROWS_AT_ONCE])
                views = [rows_BHWC, rows_BHWC[:, :, ::-1]] if mirrored else [rows_BHWC]
                yield np.stack([self.embed(view_BHWC) for view_BHWC in views], axis=1).astype(np.float16)
                bar.update(len(rows_BHWC))
