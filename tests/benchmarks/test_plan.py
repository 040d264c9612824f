"""What `make bench-plan` compares: configurations that are still accepted, as many and as different as promised."""

from __future__ import annotations

from benchmarks.plan import CASES
from benchmarks.plan_run import configuration


class TestCases:
    def test_each_is_a_configuration_that_the_trainer_takes(self) -> None:
        configs = {case.name: configuration(case.settings, case.pixels) for case in CASES}
        assert len(configs) == len(CASES) >= 12
        assert {config.batch_size for config in configs.values()} >= {1, 16}
        assert {config.gradient_checkpointing for config in configs.values()} == {True, False}
        assert {config.quantize for config in configs.values()} == {None, "nf4", "int8"}
        assert {"adamw", "adamw8bit"} <= {config.optimizer.kind for config in configs.values()}
        assert {config.method for config in configs.values()} == {"lora", "full"}
