"""`hf:FOLDER`: a network as transformers' `save_pretrained` writes it, config.json and model.safetensors.

Of a network for images and texts, as CLIP, it is the tower for images. Nothing is looked for outside of the folder, and
no code that lies in it is run.

Shape legend: B rows, C channels, H height, W width, T tokens, D embedding, h and w places.
"""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from export.sources.extras import library
from export.sources.huggingface_images import preprocessing_of
from export.sources.imported import Backbone, Features, ImportedEncoder, check_patches, checked
from export.sources.source import Network, SourceError, SourceOptions
from export.sources.weights import MOST_NAMED, check_size
from latentserve.bundle import sha256_of_file

POOLER = "pooler."
"""Classifiers are saved without the pooler of their network, which then has random weights: it has none."""
PIXELS = "pixel_values"
"""What transformers calls the input of a network of images."""
OTHER_TOWERS = ("text_model.", "text_projection.", "logit_")
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "README.md")
MOST_LICENCE_CHARACTERS = 2**18


class HuggingFaceBackbone(Backbone):
    """A network of transformers', or its tower for images."""

    def __init__(self, network: nn.Module, pooled: bool, size: tuple[int, int], resized: bool) -> None:
        super().__init__()
        tower = getattr(network, "vision_model", None)
        self.network = network if tower is None else tower
        self.projection = None if tower is None else getattr(network, "visual_projection", None)
        self.pooled = pooled
        patch = getattr(self.network.config, "patch_size", None)
        self.patch: tuple[int, int] | None = (patch, patch) if isinstance(patch, int) else patch and tuple(patch)
        self.size = size
        takes = "interpolate_pos_encoding" in inspect.signature(self.network.forward).parameters
        self.given = {"interpolate_pos_encoding": True} if resized and takes else {}

    def features(self, x: Tensor) -> Features:
        """Pooled ones are projected, where the network projects them: CLIP's, which are beside those of texts."""
        found = self.network(pixel_values=x, **self.given)
        pooled = getattr(found, "pooler_output", None) if self.pooled else None
        if pooled is not None:
            pooled = pooled.flatten(1)
            pooled = pooled if self.projection is None else self.projection(pooled)
        last = found.last_hidden_state
        if last.ndim == 4:
            return Features(pooled, map=last)
        num_before, grid = self._grid(last.shape[1])
        return Features(pooled, tokens=last, num_before=num_before, grid=grid)

    def _grid(self, num_tokens: int) -> tuple[int, tuple[int, int] | None]:
        """Tokens before those of places, and how many of these there are down and across."""
        if self.patch is None:
            return 0, None
        grid = self.size[0] // self.patch[0], self.size[1] // self.patch[1]
        num_before = num_tokens - grid[0] * grid[1]
        return (num_before, grid) if num_before >= 0 else (0, None)  # fewer: of a network that merges patches


def open(argument: str, options: SourceOptions) -> Network:  # noqa: A001 (as every source has it)
    """See the module.

    Raises:
        SourceError: transformers is missing, the folder holds no network or not all of its weights, it wants code of
            its own, or it cannot be an encoder.
    """
    folder = Path(argument).expanduser()
    files = _weights(folder)
    transformers = library("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    network, pooled = _loaded(transformers, folder)
    tower = getattr(network, "vision_model", network)
    check_size(tower, f"hf:{argument}")
    if (takes := getattr(tower, "main_input_name", PIXELS)) != PIXELS:
        kind = getattr(tower.config, "model_type", type(tower).__name__)
        raise SourceError(
            f"hf: got {kind} in {folder}, a network that takes {takes}, expected one of images ({PIXELS})"
        )
    check_patches(options.image_size, getattr(tower.config, "patch_size", None))
    found = preprocessing_of(transformers, folder, tower.config, options)
    own = getattr(tower.config, "image_size", None)
    resized = own is not None and found.size != ((own, own) if isinstance(own, int) else tuple(own))
    model = ImportedEncoder(
        HuggingFaceBackbone(network, pooled, found.size, resized),
        options.embedding,
        found.mean,
        found.std,
        found.order,
        options.normalise,
        options.patches is not None,
    )
    encoder = checked(model, found.input)
    versions = {"transformers": transformers.__version__}
    return Network(encoder, found.input, f"hf:{argument}", _sha256(files), _licence(folder), versions)


def _weights(folder: Path) -> list[Path]:
    """The files of the weights."""
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise SourceError(f"hf: got {folder}, expected a folder with config.json, as save_pretrained writes it")
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        other = next((one.name for one in sorted(folder.glob("*.bin"))), None)
        beside = f" beside {other}, a pickle" if other else ""
        raise SourceError(f"hf: got no model.safetensors in {folder}{beside}, expected what save_pretrained writes")
    return files


def _loaded(transformers: Any, folder: Path) -> tuple[nn.Module, bool]:
    """The network, and whether its pooled vectors are worth anything."""
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    given |= {"attn_implementation": "eager", "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        network, found = transformers.AutoModel.from_pretrained(folder, **given)
    except Exception as error:  # whatever transformers raises of what it does not know
        said = str(error).strip().splitlines()
        why = said[0] if said else type(error).__name__
        if "trust_remote_code" in str(error) or "auto_map" in (folder / "config.json").read_text(errors="replace"):
            why = "it wants code of its own (auto_map), which is never run"
        raise SourceError(f"hf: {folder} cannot be loaded: {why}") from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(OTHER_TOWERS))
    unpooled = [name for name in missing if name.startswith(POOLER)]
    missing = [name for name in missing if name not in unpooled]
    others = sorted(str(one[0]) for one in found.get("mismatched_keys") or ())
    for names, what in ((missing, "are missing"), (others, "have another shape")):
        if names:
            some = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
            raise SourceError(
                f"hf: {folder}: its weights are not those of its config.json: {len(names)} tensors {what} ({some})"
            )
    return network, not unpooled


def _sha256(files: list[Path]) -> str:
    """Of the only file, or of the digests of all."""
    digests = [sha256_of_file(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _licence(folder: Path) -> str:
    """What lies beside the weights: the licence, or what a README says of it in the lines before its text."""
    for name in LICENCES:
        if not (folder / name).is_file():
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")[:MOST_LICENCE_CHARACTERS]
        if name != "README.md":
            return text
        head = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
        said = [line.strip() for line in head.splitlines() if line.strip().startswith("license")]
        if said:
            return f"{', '.join(said)} (README.md)"
    return ""
