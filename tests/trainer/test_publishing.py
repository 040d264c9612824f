from __future__ import annotations

from typing import get_args

from contracts.adapter import AdapterHeader
from contracts.optimizers import OptimizerKind
from contracts.train import TrainConfig, parse_config
from trainer.publishing import KOHYA_OPTIMIZERS, training_notes

HEADER = AdapterHeader(
    name="mine",
    method="lora",
    base_identity="a" * 64,
    config_digest="b" * 64,
    dataset_version="c" * 64,
    trigger_word=None,
    rank=16,
    alpha=16.0,
    targets="attn",
    resolution_px=1024,
    prediction_type="epsilon",
    steps=10,
    created="2026-01-01T00:00:00+00:00",
)


class TestTrainingNotes:
    def test_say_in_kohyas_words_how_it_was_trained(self) -> None:
        config = parse_config(
            {"seed": 7, "steps": 10, "precision": "fp32", "optimizer": {"kind": "lion8bit", "learning_rate": 2e-4}}
        )
        said = training_notes(config, HEADER, images=40, rates={"unet": 2e-4, "text_encoder": 5e-5})
        expected = {
            "ss_seed": "7",
            "ss_max_train_steps": "10",
            "ss_num_train_images": "40",
            "ss_mixed_precision": "no",
            "ss_optimizer": "bitsandbytes.optim.lion.Lion8bit",
            "ss_unet_lr": "0.0002",
            "ss_text_encoder_lr": "5e-05",
            "ss_resolution": "(1024, 1024)",
            "ss_min_snr_gamma": "5.0",
            "ss_noise_offset": "None",
            "ss_training_finished_at": "1767225600.0",
        }
        assert expected.items() <= said.items()

    def test_say_none_where_the_text_encoders_were_not_trained(self) -> None:
        said = training_notes(TrainConfig(), HEADER, images=1, rates={"unet": 1e-4})
        assert said["ss_text_encoder_lr"] == "None"

    def test_know_every_optimiser(self) -> None:
        assert KOHYA_OPTIMIZERS.keys() == set(get_args(OptimizerKind))
