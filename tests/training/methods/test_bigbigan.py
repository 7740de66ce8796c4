from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from export.exporter import export_run
from export.graphs import EncoderGraph, GraphRunner, encoder_outputs, export_graph
from latentserve import bundle
from latentserve.inputs import INPUT
from training.__main__ import Options, run_training
from training.augmentations import STILL, ViewConfig
from training.data import ImageShape
from training.methods.bigbigan import (
    BigBiGan,
    BigBiGanConfig,
    discriminator_loss,
    ema_with_warmup,
    encoder_generator_loss,
    retrieval_at_1,
    variance_ratio,
)
from training.networks.adversarial import Bounded, Discriminator, Scores
from training.preprocessing import floats_from_rows
from training.running import checkpoint
from training.running.diary import Diary, TrainingDiverged
from training.running.run import CHECKPOINT, load_model, open_run
from training.schedule import LoopConfig

SMALL = BigBiGanConfig(latent_dim=4, backbone_width=2, hidden_dim=16, width=4, discriminator_dim=16)
TERMS = range(3)  # s_x, s_z, s_xz
GOLDEN = [(5.7552, 1.864), (3.2267, 5.2586), (2.6052, 6.5436), (2.4828, 6.6409)]  # losses of D and EG, by epoch


def model(image_size: int = 8, channels: int = 1, config: BigBiGanConfig = SMALL) -> BigBiGan:
    torch.manual_seed(0)
    return BigBiGan(config, LoopConfig(), ImageShape(image_size, channels))


def train(folder: Path, *, epochs: int = 3, seed: int = 0, resume: bool = False, **changes: Any) -> Path:
    loop = LoopConfig(epochs=epochs, batch_rows=128, seed=seed)
    return run_training("bigbigan", replace(SMALL, **changes), Options(run=folder, resume=resume, loop=loop))


def weights_of(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def slope(loss: Any, *, of_data: bool, term: int, at: float) -> float:
    """Central difference of a loss along one score of one kind of pair, the others at 0."""

    def value(score: float) -> float:
        scores = [torch.zeros(2) for _ in range(6)]
        scores[term + (0 if of_data else 3)] += score
        return float(loss(Scores(*scores[:3]), Scores(*scores[3:])))

    return (value(at + 0.01) - value(at - 0.01)) / 0.02


@pytest.mark.parametrize("term", TERMS)
def test_the_discriminator_wants_data_high_and_the_model_low_up_to_the_margin(term: int) -> None:
    for score in (-3.0, 0.0, 0.9):
        assert slope(discriminator_loss, of_data=True, term=term, at=score) == pytest.approx(-1, abs=1e-3)
        assert slope(discriminator_loss, of_data=False, term=term, at=-score) == pytest.approx(1, abs=1e-3)
    for score in (1.1, 50.0):  # the hinge of this term alone is at rest
        assert slope(discriminator_loss, of_data=True, term=term, at=score) == pytest.approx(0, abs=1e-3)
        assert slope(discriminator_loss, of_data=False, term=term, at=-score) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("term", TERMS)
def test_encoder_and_generator_want_the_reverse_and_never_saturate(term: int) -> None:
    for score in (-20.0, -1.5, 0.0, 1.5, 20.0):
        assert slope(encoder_generator_loss, of_data=True, term=term, at=score) == pytest.approx(1, abs=1e-3)
        assert slope(encoder_generator_loss, of_data=False, term=term, at=score) == pytest.approx(-1, abs=1e-3)


def test_each_term_has_a_hinge_of_its_own() -> None:
    """One hinge over the sum would be at rest here."""
    won = [torch.tensor([9.0]), torch.tensor([9.0]), torch.tensor([-2.0])]
    lost = Scores(*(torch.tensor([-9.0]) for _ in TERMS))
    assert float(discriminator_loss(Scores(*won), lost)) == 3.0


def test_steps_move_all_three_gaps_where_the_losses_say() -> None:
    gan = model()
    x, z = torch.rand(64, 1, 8, 8), torch.randn(64, 4)

    def pairs() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        torch.manual_seed(1)
        return (x, gan.trained.sample(x)), (gan.trained.generate(z), z)

    def gaps() -> list[float]:
        with torch.no_grad():
            return [float((s - t).mean()) for s, t in zip(*gan.scores(*pairs()), strict=True)]

    def descend(network: nn.Module, loss: Any) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
        for _ in range(20):
            optimizer.zero_grad()
            loss(*gan.scores(*pairs())).backward()
            optimizer.step()

    before = gaps()
    descend(gan.discriminator, discriminator_loss)
    told_apart = gaps()
    assert all(after > at_first for at_first, after in zip(before, told_apart, strict=True))
    descend(gan.trained, encoder_generator_loss)
    assert all(after < at_first for at_first, after in zip(told_apart, gaps(), strict=True))


@pytest.mark.parametrize("gain", [0.5, 2.0])
@pytest.mark.parametrize("convolution", [False, True])
def test_spectral_norm_bounds_the_layer_whatever_its_weights(convolution: bool, gain: float) -> None:
    torch.manual_seed(0)
    bounded: Any = Bounded(nn.Conv2d(3, 5, 4, 2, 1) if convolution else nn.Linear(12, 7), gain)
    with torch.no_grad():
        bounded.layer.parametrizations.weight.original.mul_(100)
    x = torch.randn(6, 3, 8, 8) if convolution else torch.randn(6, 12)
    for _ in range(50):
        bounded(x)
    norm = torch.linalg.matrix_norm(bounded.layer.weight.flatten(1), ord=2)
    assert norm.item() == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(bounded(x), gain * bounded.layer(x), rtol=1e-3, atol=1e-3)


def test_every_layer_of_the_discriminator_is_bounded() -> None:
    discriminator = Discriminator(1, 28, 4, 16, 4, 1.5)
    layers = [part for part in discriminator.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    bounded = [part for part in discriminator.modules() if isinstance(part, Bounded)]
    assert {id(part.layer) for part in bounded} == {id(layer) for layer in layers}
    assert {part.gain for part in bounded} == {1.5}
    z = torch.randn(64, 4)
    for _ in range(50):
        discriminator(torch.rand(1, 1, 28, 28), torch.randn(1, 4))
    scores = discriminator.eval()(torch.zeros(64, 1, 28, 28), z).latent
    assert ((scores[0] - scores[1:]).abs() <= 1.01 * 1.5**3 * (z[0] - z[1:]).norm(dim=1)).all()


def test_joint_score_alone_sees_whether_image_and_latent_belong_together() -> None:
    discriminator = Discriminator(1, 8, 4, 16, 4, 2.0).eval()
    x, z = torch.rand(8, 1, 8, 8), torch.randn(8, 4)
    straight, crossed = discriminator(x, z), discriminator(x, z.flip(0))
    torch.testing.assert_close(straight.image, crossed.image)
    torch.testing.assert_close(straight.latent, crossed.latent.flip(0))
    assert not torch.allclose(straight.joint, crossed.joint)


def test_no_gradient_of_one_player_reaches_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = BigBiGan.take_step
    steps: list[str] = []

    def watched(self: BigBiGan, optimizer: Any, loss: Tensor) -> None:
        players = {"discriminator": self.discriminator, "trained": self.trained}
        mine = id(optimizer.param_groups[0]["params"][0])
        (name,) = (name for name, player in players.items() if mine in {id(p) for p in player.parameters()})
        other = players["trained" if name == "discriminator" else "discriminator"]
        weights = [weights_of(player) for player in (players[name], other)]
        grads = [None if p.grad is None else p.grad.clone() for p in other.parameters()]
        original(self, optimizer, loss)
        for before, parameter in zip(grads, other.parameters(), strict=True):
            assert (before is None) == (parameter.grad is None)
            assert before is None or torch.equal(before, parameter.grad)  # type: ignore[arg-type]
        assert not torch.equal(weights[0], weights_of(players[name]))
        assert torch.equal(weights[1], weights_of(other))
        steps.append(name)

    monkeypatch.setattr(BigBiGan, "take_step", watched)
    train(tmp_path / "run", epochs=1)
    assert steps == ["discriminator", "trained"] * 9


def test_ctrl_c_and_resume_end_with_the_same_weights_optimizers_schedules_and_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    original = Diary.on_train_batch_end

    def stop(
        self: Diary, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        original(self, trainer, pl_module, outputs, batch, batch_idx)
        if trainer.current_epoch == 1 and batch_idx == 2:
            raise KeyboardInterrupt

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Diary, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    train(stopped, resume=True)
    one, other = (checkpoint.load(folder / CHECKPOINT) for folder in (whole, stopped))
    names = one["state_dict"].keys()
    for kind in ("served.n_averaged", "._u", "trained.encoder", "served.module.encoder", "running_mean"):
        assert any(kind in name for name in names), kind
    assert len(one["optimizer_states"]) == len(one["lr_schedulers"]) == 2
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
    assert open_run(stopped)[1].history == open_run(whole)[1].history


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    first, again, other = (
        checkpoint.state_dict(train(tmp_path / name, epochs=1, seed=seed) / CHECKPOINT)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    name = "trained.posterior_head.3.weight"
    assert not torch.equal(first[name], other[name])


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = BigBiGan.regression

    def poisoned(self: BigBiGan, data: Any, model: Any) -> Tensor:
        term = original(self, data, model)
        return term * float("nan") if self.current_epoch == 1 else term

    monkeypatch.setattr(BigBiGan, "regression", poisoned)
    # nine steps an epoch, each with two optimizers: the step is not Lightning's global_step
    with pytest.raises(TrainingDiverged, match=r"the loss is nan at step 10 \(epoch 1, "):
        train(tmp_path / "run")
    assert all(
        torch.isfinite(weights).all() for weights in checkpoint.state_dict(tmp_path / "run" / CHECKPOINT).values()
    )


def test_both_learning_rates_warm_up_and_fall_to_zero(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", learning_rate=1e-3, discriminator_learning_rate=4e-3, beta1=0.25)
    groups = [state["param_groups"][0] for state in checkpoint.load(folder / CHECKPOINT)["optimizer_states"]]
    assert [group["initial_lr"] for group in groups] == [4e-3, 1e-3]
    assert [group["lr"] for group in groups] == [0, 0]
    assert [tuple(group["betas"]) for group in groups] == [(0.25, 0.999)] * 2
    schedulers = checkpoint.load(folder / CHECKPOINT)["lr_schedulers"]
    assert [scheduler["last_epoch"] for scheduler in schedulers] == [27, 27]


def test_what_is_served_is_the_average(tmp_path: Path) -> None:
    def served_and_trained(ema_decay: float) -> tuple[Tensor, Tensor]:
        folder = train(tmp_path / str(ema_decay), epochs=1, ema_decay=ema_decay)
        gan: Any = load_model(folder, open_run(folder)[0])
        assert torch.equal(gan.encode(x).latent, gan.served.module.posterior(x)[1])
        return gan.encode(x).latent, gan.trained.posterior(x)[1]

    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(*served_and_trained(0.0))
    served, trained = served_and_trained(0.999)
    assert not torch.allclose(served, trained, rtol=1e-2)


def test_the_average_forgets_its_beginning_at_first_quickly_and_then_at_its_decay() -> None:
    average = ema_with_warmup(0.9)
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert average(one, zero, 0).item() == pytest.approx(0.1)
    assert average(one, zero, 30).item() == pytest.approx(31 / 40)
    assert average(one, zero, 10**6).item() == pytest.approx(0.9)


def test_averaged_networks_are_never_in_training_mode() -> None:
    gan = model()
    assert not any(module.training for module in gan.served.modules())
    gan.train()
    assert gan.trained.training
    assert not any(module.training for module in gan.served.modules())


def test_what_is_not_in_the_paper_is_left_out_unless_it_is_asked_for() -> None:
    z, x = torch.randn(32, 4), torch.rand(32, 1, 8, 8)
    for latent, image in ((0.0, 0.0), (3.0, 0.0), (0.0, 5.0), (3.0, 5.0)):
        gan = model(config=replace(SMALL, latent_regression=latent, image_regression=image)).eval()
        made, encoded = gan.trained.generate(z), gan.trained.sample(x)
        expected = latent * (gan.trained.posterior(made)[1] - z).square().mean()
        expected = expected + image * (gan.trained.generate(encoded) - x).square().mean()
        torch.testing.assert_close(gan.regression((x, encoded), (made, z)), expected)
    assert BigBiGanConfig().latent_regression == BigBiGanConfig().image_regression == 0


def test_training_images_are_augmented_if_asked_and_those_that_are_encoded_never(tmp_path: Path) -> None:
    plain, moved = (
        train(tmp_path / name, epochs=1, views=views) for name, views in (("a", STILL), ("b", ViewConfig()))
    )
    first, other = (open_run(folder)[1].history[0]["loss_discriminator"] for folder in (plain, moved))
    assert first != other
    gan, x = model(config=replace(SMALL, views=ViewConfig())).eval(), torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(gan.encode(x), gan.encode(x), rtol=0, atol=0)


def test_the_encoder_may_be_any_backbone() -> None:
    gan = model(16, 3, replace(SMALL, backbone="resnet18", backbone_width=4)).eval()
    encoding = gan.encode(torch.rand(2, 3, 16, 16))
    assert encoding.embedding.shape == (2, 32)
    assert encoding.latent is not None
    assert gan.decode(encoding.latent).shape == (2, 3, 16, 16)


def test_the_scale_of_the_encoder_is_bounded_and_is_that_of_its_samples() -> None:
    gan = model(config=replace(SMALL, largest_scale=0.25)).eval()
    x = torch.rand(1, 1, 8, 8).expand(4000, 1, 8, 8)
    _, mean, scale = gan.trained.posterior(x)
    assert 0 < scale.min() < scale.max() < 0.25
    sample = gan.trained.sample(x)
    torch.testing.assert_close(sample.std(dim=0), scale[0], rtol=0.1, atol=0)
    torch.testing.assert_close(sample.mean(dim=0), mean[0], rtol=0, atol=0.02)


def test_collapse_shows_in_the_figures() -> None:
    z, x = torch.randn(500, 4), torch.rand(500, 1, 8, 8)
    assert variance_ratio(torch.zeros(500, 4), z).item() == 0
    assert variance_ratio(0.5 * z, z).item() == pytest.approx(0.25)
    half = torch.cat([z[:, :2], torch.zeros(500, 2)], dim=1)
    assert variance_ratio(half, z).item() == pytest.approx(0.5)
    assert retrieval_at_1(x + 0.01 * torch.randn_like(x), x).item() == 1
    assert retrieval_at_1(x.mean(dim=0, keepdim=True).expand_as(x), x).item() == pytest.approx(1 / 500)
    assert retrieval_at_1(torch.cat([x[:250], x[:250]]), x).item() == pytest.approx(0.5)


def test_images_that_are_not_square_are_decoded_at_their_size() -> None:
    torch.manual_seed(0)
    gan = BigBiGan(SMALL, LoopConfig(), ImageShape(9, 1, width=30)).eval()
    x = torch.rand(2, 1, 9, 30)
    latent = gan.encode(x).latent
    assert latent is not None
    assert gan.decode(latent).shape == x.shape
    assert gan.discriminator(x, latent).image.shape == (2,)


@pytest.mark.parametrize("image_size", [8, 9, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_size_is_decoded_at_that_size(image_size: int, channels: int) -> None:
    gan = model(image_size, channels).eval()
    x = torch.rand(2, channels, image_size, image_size)
    encoding = gan.encode(x)
    torch.testing.assert_close(encoding.embedding, gan.averaged.encoder(2 * x - 1))  # the backbone's, not the MLP's
    assert encoding.latent is not None
    assert encoding.latent_scale is not None
    assert encoding.latent.shape == encoding.latent_scale.shape == (2, 4)
    decoded = gan.decode(encoding.latent)
    assert decoded.shape == (2, channels, image_size, image_size)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: got 0, expected above 0"),
        ({"spectral_gain": -1.0}, "spectral_gain: got -1.0, expected above 0"),
        ({"latent_regression": -1.0}, "latent_regression: got -1.0, expected 0 or greater"),
        ({"image_regression": -1.0}, "image_regression: got -1.0, expected 0 or greater"),
        ({"ema_decay": 1.0}, "ema_decay: got 1.0, expected 0 or greater and below 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BigBiGanConfig(**config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "bigbigan", epochs=4, latent_regression=1.0)


def test_golden_curve(finished: Path) -> None:
    """A change of loss, step or seed that was not meant shows here. Measured on an x86 CPU, one thread."""
    history = open_run(finished)[1].history
    curve = [(row["loss_discriminator"], row["loss_encoder_generator"]) for row in history]
    np.testing.assert_allclose(curve, GOLDEN, rtol=2e-3)


def test_collapse_figures_are_kept_of_every_epoch_and_of_the_test_split(finished: Path) -> None:
    _, trained = open_run(finished)
    assert all({"variance_ratio", "retrieval_at_1"} <= row.keys() for row in trained.history)
    assert trained.test.keys() == {"test_variance_ratio", "test_retrieval_at_1"}


def test_export_has_encoder_decoder_and_scorer_and_serves_the_averaged_mean(finished: Path, tmp_path: Path) -> None:
    folder = export_run(finished, tmp_path, report="none")
    manifest = bundle.load(folder)
    assert manifest.graphs.keys() == {"encoder", "decoder", "scorer"}
    assert {parity.tensor for parity in manifest.parity} == {
        "embedding", "latent", "latent_scale", "reconstruction", "scores", "anomaly_map",
    }  # fmt: skip
    run, _ = open_run(finished)
    gan: Any = load_model(finished, run)
    images = run.load_data().test.values[:32]
    got = GraphRunner(folder, manifest.graphs.values()).run(images)
    with torch.no_grad():
        _, mean, _ = gan.served.module.posterior(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        reconstruction = gan.served.module.generate(mean).permute(0, 2, 3, 1)
    np.testing.assert_allclose(got["latent"], mean, atol=1e-4)
    np.testing.assert_allclose(got["reconstruction"], reconstruction, atol=1e-4)


@pytest.mark.parametrize("logit", [-14.0, -25.0, -100.0])
def test_the_smallest_scales_are_exported_to_all_their_digits(logit: float, tmp_path: Path) -> None:
    gan = model()
    head: Any = gan.served.module.posterior_head[-1]
    with torch.no_grad():
        head.bias[SMALL.latent_dim :] = logit
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)
    example = torch.from_numpy(images)
    encoder = EncoderGraph(gan.eval())
    graph = export_graph(encoder, {INPUT: example[:2]}, encoder_outputs(gan, example[:2]), tmp_path / "encoder.onnx")
    got = GraphRunner(tmp_path, [graph]).run(images)["latent_scale"]
    with torch.no_grad():
        expected = gan.encode(floats_from_rows(example)).latent_scale
    assert 0 < got.max() < 1e-5
    np.testing.assert_allclose(got, expected, rtol=1e-4)  # detectors take logarithms of them


def test_a_scale_far_below_has_no_gradient_that_is_no_number() -> None:
    network = model().trained.train()
    head: Any = network.posterior_head[-1]
    with torch.no_grad():
        head.bias[SMALL.latent_dim :] = -1000.0
    network.posterior(torch.rand(4, 1, 8, 8))[2].sum().backward()
    assert torch.isfinite(head.bias.grad).all()


def test_running_statistics_of_what_is_served_are_averages_too() -> None:
    """With averaged weights the last step's statistics are those of another network."""
    gan = model()
    statistics = [name for name, buffer in gan.trained.named_buffers() if buffer.is_floating_point()]
    assert any("running_var" in name for name in statistics)
    for value in (1.0, 5.0):  # the first is copied
        for name in statistics:
            gan.trained.get_buffer(name).fill_(value)
        gan.served.update_parameters(gan.trained)
    expected = ema_with_warmup(SMALL.ema_decay)(torch.tensor(1.0), torch.tensor(5.0), 1)
    assert 1 < expected < 5
    for name in statistics:
        got = gan.averaged.get_buffer(name)
        torch.testing.assert_close(got, expected.expand_as(got))
