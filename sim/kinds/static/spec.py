"""What a scenario says of a static batch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sim.scenario.fields import Count, Section


class SharedRun(Section):
    """Tokens that the prompts of several sequences share: a node of the tree of their prefixes."""

    tokens: Count
    sequences: Count | None = Field(default=None, description="default: all of the batch")


class Decode(Section):
    """A static batch: one prefill, then every decode step with a context that grows."""

    kind: Literal["decode"]
    batch: Count
    prompt_tokens: Count
    output_tokens: Count
    shared: list[SharedRun] = Field(
        default=[], max_length=1000, description="what the prompts have in common"
    )
    every_step: bool = Field(
        default=False, description="play every step, not a sample where the cost is linear"
    )

    @model_validator(mode="after")
    def _shared_fits(self) -> Decode:
        by_all = sum(run.tokens for run in self.shared if run.sequences in (None, self.batch))
        most = max((run.sequences or 0 for run in self.shared), default=0)
        together = sum((run.sequences or self.batch) * run.tokens for run in self.shared)
        return self.unless(
            (
                by_all >= self.prompt_tokens,
                f"a prompt of {self.prompt_tokens} tokens cannot share {by_all}: its last is its "
                "own",
            ),
            (
                most > self.batch,
                f"{most} sequences cannot share a prefix in a batch of {self.batch}",
            ),
            (
                together > self.batch * (self.prompt_tokens - 1),
                f"the shared runs come to {together} tokens, more than the prompts have",
            ),
        )
