"""The weights a run leaves: one file whose header says what they are, what they belong to and how they were trained.

Knows nothing about steps or checkpoints: the tensors are the model's as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from contracts.adapter import AdapterHeader
from contracts.train import TrainConfig
from sdxl.formats import save_adapter, save_full
from trainer.parts import Identified, Parts

KOHYA_OPTIMIZERS = {
    "adamw": "torch.optim.adamw.AdamW",
    "adamw8bit": "bitsandbytes.optim.adamw.AdamW8bit",
    "paged-adamw8bit": "bitsandbytes.optim.adamw.PagedAdamW8bit",
    "lion8bit": "bitsandbytes.optim.lion.Lion8bit",
    "adafactor": "transformers.optimization.Adafactor",
}
"""As kohya's trainer names them."""


def write_weights(path: Path, config: TrainConfig, found: Identified, parts: Parts, step: int) -> None:
    """Write the weights of ``step`` with the header that says what they are and what they belong to."""
    model, lora = parts.objective.model, config.lora if config.method == "lora" else None
    header = AdapterHeader(
        name=config.output_name,
        method=config.method,
        base_identity=found.base_identity,
        config_digest=config.digest(),
        dataset_version=found.data.mixture.digest,
        datasets=found.data.mixture.named_shares,
        trigger_word=config.trigger_word,
        rank=lora.rank if lora else None,
        alpha=lora.alpha if lora else None,
        targets=lora.targets if lora else None,
        strength_pattern=lora.strength_pattern if lora else {},
        resolution_px=config.data.resolution_px or found.base.native_px,
        prediction_type=parts.objective.prediction_type,
        zero_terminal_snr=bool(parts.objective.scheduler_config.get("rescale_betas_zero_snr")),
        parent=found.parent,
        ema_decay=config.ema.decay if config.ema else None,
        steps=step,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if model.bank is not None:
        notes = training_notes(config, header, images=found.data.mixture.images_an_epoch, rates=model.peak_rates)
        save_adapter(path, model.state(), header, model.bank.alphas, dialect=found.dialect, notes=notes)
    else:
        save_full(path, model.published(), header)


def training_notes(
    config: TrainConfig, header: AdapterHeader, *, images: int, rates: Mapping[str, float]
) -> dict[str, str]:
    """How a LoRA was trained in kohya's ``ss_*`` words, which UIs show; no path and no file name is among them.

    Args:
        images: seen an epoch.
        rates: peak learning rate of each component.
    """
    text_rates = {name: rate for name, rate in rates.items() if name != "unet"}
    side = header.resolution_px
    values: dict[str, object] = {
        "learning_rate": config.optimizer.learning_rate,
        "unet_lr": rates.get("unet"),
        "text_encoder_lr": max(text_rates.values(), default=None),
        "optimizer": KOHYA_OPTIMIZERS[config.optimizer.kind],
        "lr_scheduler": config.optimizer.schedule,
        "lr_warmup_steps": config.optimizer.warmup(config.steps),
        "max_grad_norm": config.optimizer.max_grad_norm,
        "max_train_steps": config.steps,
        "num_train_images": images,
        "batch_size_per_device": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_checkpointing": config.gradient_checkpointing,
        "mixed_precision": "no" if config.precision == "fp32" else config.precision,
        "seed": config.seed,
        "noise_offset": config.loss.noise_offset,
        "min_snr_gamma": config.loss.min_snr_gamma,
        "caption_dropout_rate": config.data.caption_dropout,
        "network_dropout": config.lora.dropout,
        "resolution": (side, side),
        "training_finished_at": datetime.fromisoformat(header.created).timestamp(),
    }
    return {f"ss_{name}": str(value) for name, value in values.items()}
