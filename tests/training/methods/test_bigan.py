from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from export.calibration import Promise
from export.exporter import export_run
from latentserve import bundle
from training.__main__ import Options, run_training
from training.data import ImageShape
from training.methods.bigan import BiGan, BiGanConfig, pair_discriminator_loss, pair_encoder_generator_loss
from training.networks.adversarial import Scores
from training.running import checkpoint
from training.running.diary import Diary
from training.running.run import CHECKPOINT, open_run
from training.schedule import LoopConfig

SMALL = BiGanConfig(latent_dim=4, backbone_width=2, hidden_dim=16, width=4, discriminator_dim=16)
GOLDEN = [(1.69499, 5.35658), (0.17241, 8.15011), (0.0923, 9.43968)]  # losses of D and EG, by epoch


def train(folder: Path, *, epochs: int = 3, resume: bool = False, **changes: Any) -> Path:
    loop = LoopConfig(epochs=epochs, batch_rows=128)
    return run_training("bigan", replace(SMALL, **changes), Options(run=folder, resume=resume, loop=loop))


def scores(joint: torch.Tensor) -> Scores:
    return Scores(torch.zeros_like(joint), torch.zeros_like(joint), joint)


def test_the_losses_are_cross_entropies_with_the_labels_swapped() -> None:
    data, model = torch.randn(7), torch.randn(5)

    def cross_entropy(of_data: float, of_model: float) -> float:
        pairs = ((data, of_data), (model, of_model))
        return float(sum(F.binary_cross_entropy_with_logits(one, torch.full_like(one, label)) for one, label in pairs))

    got = pair_discriminator_loss(scores(data), scores(model))
    assert got.item() == pytest.approx(cross_entropy(1, 0))
    swapped = pair_encoder_generator_loss(scores(data), scores(model))
    assert swapped.item() == pytest.approx(cross_entropy(0, 1))


def test_unary_scores_do_not_count_and_are_not_there() -> None:
    torch.manual_seed(0)
    model = BiGan(SMALL, LoopConfig(), ImageShape(8, 1))
    names = {name.split(".")[0] for name, _ in model.discriminator.named_parameters()}
    assert names == {"features", "latent_features", "joint_features", "joint_head"}
    got = model.discriminator(torch.rand(3, 1, 8, 8), torch.randn(3, 4))
    assert got.image.tolist() == got.latent.tolist() == [0.0] * 3
    assert got.joint.abs().min() > 0


def test_the_encoder_has_no_noise() -> None:
    torch.manual_seed(0)
    model = BiGan(SMALL, LoopConfig(), ImageShape(8, 1)).eval()
    x = torch.rand(3, 1, 8, 8)
    encoding = model.encode(x)
    assert encoding.latent_scale is None
    assert encoding.latent is not None
    torch.testing.assert_close(model.averaged.sample(x), encoding.latent)
    assert model.decode(encoding.latent).shape == x.shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: got 0, expected above 0"),
        ({"discriminator_learning_rate": 0.0}, "discriminator_learning_rate: got 0.0"),
        ({"ema_decay": 1.0}, "ema_decay: got 1.0, expected 0 or greater and below 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BiGanConfig(**config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits."""
    return train(tmp_path_factory.mktemp("runs") / "bigan")


def test_the_loss_curves_of_a_seed_are_those_on_record(run: Path) -> None:
    """A change here is a change of the method, the networks or the loop: say so in the commit."""
    history = open_run(run)[1].history
    losses = [row[name] for row in history for name in ("loss_discriminator", "loss_encoder_generator")]
    assert losses == pytest.approx([value for pair in GOLDEN for value in pair], rel=1e-3)


def test_every_option_changes_what_is_learnt(run: Path, tmp_path: Path) -> None:
    def figures(folder: Path) -> tuple[float, ...]:
        return tuple(round(value, 7) for name, value in open_run(folder)[1].history[0].items() if name != "epoch")

    changed: dict[str, Any] = {"spectral_gain": 1.0, "learning_rate": 1e-2, "discriminator_learning_rate": 1e-2}
    changed |= {"beta1": 0.0, "ema_decay": 0.0}
    found = {figures(run), *(figures(train(tmp_path / name, epochs=1, **{name: to})) for name, to in changed.items())}
    assert len(found) == 1 + len(changed)


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Diary.on_train_batch_end

    def stop(self: Diary, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Diary, "on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    monkeypatch.undo()
    train(tmp_path / "run", resume=True)
    whole, resumed = (checkpoint.state_dict(folder / CHECKPOINT) for folder in (run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_is_exported_with_parity(run: Path, tmp_path: Path) -> None:
    promise = Promise(detectors=("mahalanobis", "joint_discriminator"))
    manifest = bundle.load(export_run(run, tmp_path, report="none", promise=promise))
    assert manifest.graphs.keys() == {"encoder", "decoder", "scorer"}
    assert [spec.name for spec in manifest.graphs["encoder"].outputs] == ["embedding", "latent"]
    assert "joint_discriminator" in {detector.name for detector in manifest.detectors}
