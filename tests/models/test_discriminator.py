"""The discriminator's two losses train two different sides."""

import torch

from varestorer_models.discriminator import FeatureDiscriminator


def stages(seed: int, shift: float = 0.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, c, s, s, generator=generator) + shift for c, s in ((6, 16), (10, 8))]


def test_each_loss_reaches_its_own_side_only() -> None:
    torch.manual_seed(0)
    judge = FeatureDiscriminator((6, 10), width=8)
    fake = [stage.requires_grad_() for stage in stages(0)]
    generator, discriminator = judge.losses(fake, stages(1))
    generator.backward(retain_graph=True)
    assert all(stage.grad is not None and stage.grad.abs().sum() > 0 for stage in fake)
    assert all(p.grad is None for p in judge.parameters())
    for stage in fake:
        stage.grad = None
    discriminator.backward()
    assert all(stage.grad is None for stage in fake)
    assert all(p.grad is not None for p in judge.parameters())


def test_discriminator_learns_to_tell_shifted_features() -> None:
    torch.manual_seed(0)
    judge = FeatureDiscriminator((6, 10), width=8)
    optimizer = torch.optim.Adam(judge.parameters(), lr=5e-3)
    first = last = 0.0
    for step in range(60):
        _, loss = judge.losses(stages(2 * step, shift=0.7), stages(2 * step + 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        first = first or last
    assert first > 1.5
    assert last < 1.0


def test_scores_ignore_the_overall_size_of_features() -> None:
    torch.manual_seed(0)
    judge = FeatureDiscriminator((6, 10), width=8)
    one = judge.losses(stages(0), stages(1))
    ten = judge.losses([10 * s for s in stages(0)], [10 * s for s in stages(1)])
    torch.testing.assert_close(one[1], ten[1])
