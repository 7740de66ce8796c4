from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.training.running.test_run import interrupt_in_epoch
from training.__main__ import Options, run_training
from training.data import AudioShape
from training.methods.cpc_audio import CpcAudio, CpcAudioConfig, played, prediction_loss
from training.running import checkpoint
from training.running.run import CHECKPOINT, open_run
from training.schedule import LoopConfig

RATE = 8000
SMALL: dict[str, Any] = {"num_filters": 8, "width": 16, "num_steps": 3}


def cpc(**config: Any) -> CpcAudio:
    torch.manual_seed(0)
    return CpcAudio(CpcAudioConfig(**{**SMALL, **config}), LoopConfig(), AudioShape(RATE, RATE))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 0.1


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(noise(*shape), dim=-1)


@pytest.mark.parametrize("negatives", ["row", "batch"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_what_its_definition_says(negatives: Any, temperature: float) -> None:
    steps, rows, frames, num_targets = 2, 3, 4, 5
    predictions, targets = unit(steps, rows, frames, 6), unit(rows, num_targets, 6)
    positives = torch.randint(0, num_targets + 2, (steps, rows, frames), generator=torch.Generator().manual_seed(0))
    losses, right = [], []
    for k in range(steps):
        for b in range(rows):
            for n in range(frames):
                positive = int(positives[k, b, n])
                if positive >= num_targets:
                    continue  # nothing to find
                candidates = targets[b] if negatives == "row" else targets.flatten(0, 1)
                place = positive if negatives == "row" else b * num_targets + positive
                scores = (candidates @ predictions[k, b, n] / temperature).exp()
                losses.append(-(scores[place] / scores.sum()).log())
                right.append(float(scores.argmax() == place))
    loss, accuracy = prediction_loss(predictions, targets, positives, temperature, negatives)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert accuracy.item() == pytest.approx(np.mean(right))


@pytest.mark.parametrize(("negatives", "candidates"), [("row", 7), ("batch", 21)])
def test_who_knows_nothing_pays_the_logarithm_of_the_candidates(negatives: Any, candidates: int) -> None:
    targets = unit(1, 1, 4).expand(3, 7, 4)
    loss, _ = prediction_loss(unit(2, 3, 7, 4), targets, torch.zeros(2, 3, 7, dtype=torch.int64), 0.1, negatives)
    assert loss.item() == pytest.approx(math.log(candidates), rel=1e-5)


def test_the_loss_of_a_seed_stays_what_it_was() -> None:
    model = cpc()
    model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    rows = (noise(4, 20480) * 32767).to(torch.int16)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for step in range(3):
        loss = model.training_step(rows, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(GOLDEN, rel=1e-3)


GOLDEN = [6.7682, 5.3952, 5.3440]


@pytest.mark.parametrize("context", ["conv", "gru"])
def test_nothing_is_heard_before_it_sounds(context: Any) -> None:
    model = cpc(context=context).eval()
    before, after = noise(1, RATE), noise(1, RATE)
    after[:, 4000:] = 0.5
    for part in (model.features, lambda x: model.context(model.features(x))):
        first, second = part(before), part(after)
        torch.testing.assert_close(first[..., :50], second[..., :50])
        assert not torch.allclose(first[..., 50], second[..., 50])


@pytest.mark.parametrize(("context", "remembers"), [("conv", False), ("gru", True)])
def test_the_gru_remembers_what_the_convolutions_forget(context: Any, remembers: bool) -> None:
    model = cpc(context=context).double().eval()
    one, other = noise(1, RATE).double(), noise(1, RATE).double()
    other[:, :80] = 0.9
    contexts = [model.context(model.features(x))[..., 36] for x in (one, other)]
    assert torch.equal(*contexts) is not remembers


@pytest.mark.parametrize("context", ["conv", "gru"])
def test_padding_changes_nothing(context: Any) -> None:
    model = cpc(context=context).eval()
    clip = noise(2, 3210)
    embeddings = [model.encode(F.pad(clip, (0, more))).embedding for more in (70, 790, 4790)]
    assert embeddings[0].shape == (2, 96)
    for padded in embeddings[1:]:
        torch.testing.assert_close(padded, embeddings[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.encode(F.pad(clip, (800, 0))).embedding, embeddings[0], atol=1e-3)


def test_silence_has_an_embedding_and_a_gradient() -> None:
    model = cpc()
    embedding = model.encode(torch.zeros(2, RATE)).embedding
    assert torch.isfinite(embedding).all()
    loss, _ = model.loss_of(torch.zeros(2, RATE), torch.zeros(2, RATE), torch.ones(2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)


def test_rows_do_not_hear_each_other() -> None:
    model = cpc()  # in training mode
    clips = noise(5, RATE)
    together = model.encode(clips).embedding
    torch.testing.assert_close(model.encode(clips[2:3]).embedding, together[2:3])


@pytest.mark.parametrize("hertz", [300, 1000, 2500])
def test_a_tone_is_loudest_in_the_filter_of_its_pitch(hertz: int) -> None:
    model = cpc(num_filters=24)
    tone = 0.3 * torch.sin(2 * math.pi * hertz / RATE * torch.arange(RATE))[None]
    loudest = model.filters(tone)[0, :, 50].argmax().item()
    lowest, highest = (2595 * math.log10(1 + f / 700) for f in (60, 4000))
    expected = (2595 * math.log10(1 + hertz / 700) - lowest) / (highest - lowest) * 25 - 1
    assert abs(loudest - expected) <= 1


def test_a_row_played_faster_is_the_same_row_sooner() -> None:
    row = noise(2, 1000)
    torch.testing.assert_close(played(row, torch.ones(2), 900), row[:, :900])
    torch.testing.assert_close(played(row, torch.tensor([2.0, 1.0]), 400)[0], row[0, :800:2])
    half = played(row, torch.tensor([0.5, 0.5]), 800)
    torch.testing.assert_close(half[:, 1:799:2], (row[:, :399] + row[:, 1:400]) / 2)


def test_the_target_is_the_same_moment_at_the_other_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A click is put where step 2 from frame 60 should find it, and is found there."""
    model = cpc(speed=0.2).eval()
    speeds = torch.tensor([[1.15], [0.9]])
    row = torch.zeros(1, 20480)
    moment = int(62.5 * 80 * 1.15)
    row[:, moment : moment + 40] = 0.5
    heard, asked = (played(row, speed, 16000) for speed in speeds)
    asked_for: list[torch.Tensor] = []

    def spy(predictions: Any, targets: Any, positives: torch.Tensor, *rest: Any) -> Any:
        asked_for.append(positives)
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr("training.methods.cpc_audio.prediction_loss", spy)
    model.loss_of(heard, asked, speeds[0] / speeds[1])
    frame = int(asked_for[0][1, 0, 60])
    clicks = asked[:, : 200 * 80].reshape(1, 200, 80).abs().sum(dim=2)[0]
    assert abs(clicks.argmax().item() - frame) <= 1
    assert frame == round(62 * 1.15 / 0.9)


def test_the_context_hears_holes_in_training_and_targets_never_have_any(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cpc(dropout=0.5)
    heard: list[torch.Tensor] = []
    model.context.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    row = noise(2, 4000)
    for mode in (True, False):
        model.train(mode).loss_of(row, row, torch.ones(2))
    whole = model.features(row)
    kept = heard[0] != 0
    torch.testing.assert_close(heard[0][kept], 2 * whole[kept])
    assert 0.4 < kept[whole != 0].float().mean() < 0.6
    torch.testing.assert_close(heard[1], whole)


def test_rows_are_cut_at_random_places(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cpc(crop=0.25)
    model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    heard: list[torch.Tensor] = []
    original = model.loss_of
    monkeypatch.setattr(model, "loss_of", lambda x, *rest: heard.append(x) or original(x, *rest))
    rows = torch.arange(1, 4001, dtype=torch.int16).repeat(2, 1)
    for _ in range(20):
        model.training_step(rows, 0)
    starts = {round(float(x[0, 0]) * 32768) for x in heard}
    assert all(x.shape == (2, 3000) for x in heard)
    assert len(starts) > 15
    assert 1 <= min(starts) <= max(starts) <= 1001


def test_without_speed_crop_and_dropout_the_views_are_one() -> None:
    model = cpc(speed=0.0, dropout=0.0, crop=0.0)
    model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    rows = (noise(3, 4000) * 32767).to(torch.int16)
    waveform = rows / 32768
    expected, _ = model.loss_of(waveform, waveform, torch.ones(3))
    torch.testing.assert_close(model.training_step(rows, 0), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 0}, "width: got 0, expected above 0"),
        ({"temperature": 0.0}, "temperature: got 0.0"),
        ({"num_steps": 13}, "num_steps: got 13, expected 1 to 12"),
        ({"crop": 1.0}, "crop: got 1.0, expected 0 or greater and below 1"),
        ({"dropout": 1.0}, "dropout: got 1.0, expected 0 or greater and below 1"),
        ({"speed": 0.6}, "speed: got 0.6, expected 0 to 0.5"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0, expected 0 or greater"),
    ],
)
def test_a_config_that_makes_no_sense_is_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CpcAudioConfig(**config)


def test_a_window_below_a_frame_is_rejected() -> None:
    with pytest.raises(ValueError, match="num_samples: got 79, expected 80"):
        CpcAudio(CpcAudioConfig(), LoopConfig(), AudioShape(RATE, 79))


def train(folder: Path, tones: Path, *, seed: int = 0, resume: bool = False) -> Path:
    loop = LoopConfig(epochs=3, batch_rows=2, seed=seed)
    options = Options(f"audio:{tones}", num_samples=4000, run=folder, resume=resume, loop=loop, calibration_share=0.1)
    return run_training("cpc_audio", CpcAudioConfig(**SMALL), options)


def test_a_resumed_run_ends_with_the_same_weights_and_another_seed_with_others(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", tones)
    undo = interrupt_in_epoch(1, monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", tones)
    undo()
    train(tmp_path / "stopped", tones, resume=True)
    other = train(tmp_path / "other", tones, seed=1)
    weights, same, different = (
        checkpoint.state_dict(folder / CHECKPOINT) for folder in (whole, tmp_path / "stopped", other)
    )
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert not torch.equal(weights["predictors.0.weight"], different["predictors.0.weight"])
    history = open_run(whole)[1].history
    assert history[-1]["loss"] < history[0]["loss"]
