"""Every use of chance has its own stream, from every bit of the run's seed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from components.shared.seeds import derived_seed

STREAMS = ["torch", "shuffle", "flip", "split"]


def test_seeds_that_torch_takes_for_one_are_two() -> None:
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2**62 + 1)
    assert torch.equal(torch.rand(8, generator=first), torch.rand(8, generator=second))  # why seeds are hashed

    drawn = [
        torch.rand(8, generator=torch.Generator().manual_seed(derived_seed(seed, "torch"))) for seed in (1, 2**62 + 1)
    ]
    assert not torch.equal(drawn[0], drawn[1])


def test_streams_of_one_seed_differ() -> None:
    seeds = {derived_seed(seed, stream) for seed in (0, 1, 17, 2**64 - 1) for stream in STREAMS}
    assert len(seeds) == 16
    drawn = [
        tuple(torch.randint(0, 2**31, (4,), generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds
    ]
    assert len(set(drawn)) == 16


def test_a_derived_seed_never_changes() -> None:
    # Written down: another value would be another run for everybody's seeds.
    assert derived_seed(17, "shuffle") == 2445281521027290903
    assert derived_seed(2**64 - 1, "torch") == 3626862151841020281


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(max_size=5))
def test_any_two_seeds_give_two_that_torch_takes(one: int, other: int, stream: str) -> None:
    first, second = derived_seed(one, stream), derived_seed(other, stream)
    assert 0 <= first < 2**63
    assert (first == second) == (one == other)
    assert torch.Generator().manual_seed(first).initial_seed() == first
