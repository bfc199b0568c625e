"""Every use of chance has its own stream, from every bit of the run's seed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from components.shared.seeds import derived_seed


def test_a_derived_seed_never_changes() -> None:
    # Written down: another value would be another run for everybody's seeds.
    assert derived_seed(17, "shuffle") == 2445281521027290903
    assert derived_seed(2**64 - 1, "torch") == 3626862151841020281


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(max_size=5))
def test_any_two_seeds_give_two_that_torch_takes(one: int, other: int, stream: str) -> None:
    first, second = derived_seed(one, stream), derived_seed(other, stream)
    assert 0 <= first < 2**63
    assert (first == second) == (one == other), "torch's generator takes 1 and 2^62 + 1 for one seed"
    assert derived_seed(one, f"{stream}x") != first
    assert torch.Generator().manual_seed(first).initial_seed() == first
