"""The pre-restorer: contract, geometry of the windows, fresh weights."""

import numpy as np
import pytest
import torch

from varestorer_models.swinir import SwinIR, SwinIRConfig, WindowGeometry, reflect_to_multiple, set_window_attention

SMALL = SwinIRConfig(width=12, depths=(2, 1), heads=(2, 3), window=4, unshuffle=2, feature_width=8)
CPU = torch.device("cpu")


def small_network(config: SwinIRConfig = SMALL, seed: int = 0) -> SwinIR:
    """A network whose branches all contribute, unlike a freshly initialised one."""
    network = SwinIR(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return network


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1), (8, 8), (9, 8), (5, 31), (16, 24), (17, 40)])
def test_any_size_comes_back(height: int, width: int) -> None:
    with torch.inference_mode():
        restored = small_network()(pixels(2, 3, height, width))
    assert restored.shape == (2, 3, height, width)
    assert restored.is_contiguous()
    assert restored.isfinite().all()


def test_odd_size_is_the_crop_of_the_reflected_image() -> None:
    network, image = small_network(), pixels(1, 3, 13, 18)
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 3), (0, 6)), mode="reflect")
    with torch.inference_mode():
        expected = network(torch.from_numpy(padded))[..., :13, :18]
        assert torch.equal(network(image), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 9])
def test_reflection_goes_to_and_fro(size: int) -> None:
    image = pixels(1, 1, size, 2 * size)
    padded = reflect_to_multiple(image, 8)
    height, width = (-(-side // 8) * 8 for side in (size, 2 * size))
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, height - size), (0, width - 2 * size)), mode="reflect")
    assert torch.equal(padded, torch.from_numpy(expected))


def test_a_batch_is_its_images_one_by_one() -> None:
    network, images = small_network(), pixels(3, 3, 24, 16)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_nothing_is_remembered_between_sizes() -> None:
    network = small_network()
    with torch.inference_mode():
        first = network(pixels(1, 3, 16, 24))
        network(pixels(1, 3, 40, 8))
        assert torch.equal(network(pixels(1, 3, 16, 24)), first)


@pytest.mark.parametrize("window", [2, 3, 4, 8])
def test_shifted_windows_join_only_neighbours(window: int) -> None:
    rows, columns = 2 * window, 3 * window
    mask = WindowGeometry.of(window, rows, columns, CPU).shift_mask
    # where each token of the rolled grid came from
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
    rolled = grid.roll((-(window // 2), -(window // 2)), dims=(0, 1))
    for index in range(len(mask)):
        top, left = index // 3 * window, index % 3 * window
        origin = rolled[top : top + window, left : left + window].reshape(-1, 2)
        apart = (origin[:, None] - origin[None, :]).abs().amax(-1)
        assert torch.equal(mask[index] == 0, apart < window)
        assert mask[index].unique().tolist() in ([0.0], [-100.0, 0.0])


def test_relative_positions_count_query_minus_key() -> None:
    window = 3
    index = WindowGeometry.of(window, window, window, CPU).bias_index
    for query in range(window**2):
        for key in range(window**2):
            row = query // window - key // window
            column = query % window - key % window
            assert index[query, key] == (row + 2) * 5 + column + 2


def test_state_dict_has_the_released_names_only() -> None:
    network = SwinIR(SwinIRConfig(width=12, depths=(2,), heads=(2,)))
    stack = "layers.0.residual_group.blocks"
    layers = ["conv_first.1", "patch_embed.norm", "layers.0.conv", "norm", "conv_after_body", "conv_before_upsample.0"]
    layers += ["conv_up1", "conv_up2", "conv_up3", "conv_hr", "conv_last"]
    for block in (f"{stack}.0", f"{stack}.1"):
        layers += [f"{block}.{name}" for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")]
    expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    expected |= {f"{stack}.{i}.attn.relative_position_bias_table" for i in (0, 1)}
    assert set(network.state_dict()) == expected


def test_the_default_is_the_published_size() -> None:
    assert sum(parameter.numel() for parameter in SwinIR(SwinIRConfig()).parameters()) == 15_792_587


def test_every_parameter_learns() -> None:
    network = small_network()
    network(pixels(1, 3, 16, 16)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_fresh_weights_start_near_the_mean_image() -> None:
    torch.manual_seed(0)
    network = SwinIR(SwinIRConfig(width=24, depths=(2, 2), heads=(2, 2), feature_width=32))
    with torch.inference_mode():
        restored = network(pixels(1, 3, 64, 64))
    mean = torch.tensor(network.config.image_mean).view(3, 1, 1)
    assert 1e-3 < (restored - mean).std() < 0.3


def test_a_few_steps_fit_a_image() -> None:
    torch.manual_seed(0)
    network = SwinIR(SMALL)
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = (network(ramp) - ramp).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_dtype_is_kept() -> None:
    network = small_network().bfloat16()
    with torch.inference_mode():
        assert network(pixels(1, 3, 8, 8).bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert small_network()(pixels(1, 3, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8)])
def test_other_tensors_are_refused_with_their_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a batch of RGB images .* got \("):
        small_network()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (2,)}, r"depths \(2,\) and heads \(2, 3\) do not fit"),
        ({"depths": (), "heads": ()}, "do not fit"),
        ({"depths": (0, 2)}, "at least one block"),
        ({"width": 10}, "width 10 is not divisible by 3 heads"),
        ({"unshuffle": 3}, "unshuffle 3 is not a power of two"),
        ({"window": 1}, "window 1 is too small"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, object], message: str) -> None:
    fields = {"width": 12, "depths": (2, 1), "heads": (2, 3)}
    with pytest.raises(ValueError, match=message):
        SwinIRConfig(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_padded_heads_and_kept_tables_change_nothing_but_rounding(precision: str) -> None:
    network, image = small_network(), pixels(2, 3, 16, 24)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        set_window_attention(network, padded=False, keeps_bias=False)
        plain = network(image)
        set_window_attention(network, padded=True, keeps_bias=True)
        for _ in range(2):
            torch.testing.assert_close(network(image), plain, atol=1e-5 if precision == "fp32" else 0.05, rtol=0.02)


def test_kept_tables_follow_weights_and_grids() -> None:
    network, image = small_network(), pixels(1, 3, 16, 24)
    fresh = small_network()
    set_window_attention(fresh, keeps_bias=False)
    with torch.no_grad():
        network(image)
        for one in (network, fresh):
            for parameter in one.parameters():
                parameter.mul_(0.5)
        assert torch.equal(network(image), fresh(image))
        network.load_state_dict(small_network(seed=3).state_dict())
        fresh.load_state_dict(network.state_dict())
        assert torch.equal(network(image), fresh(image))
        assert torch.equal(network(pixels(1, 3, 24, 16)), fresh(pixels(1, 3, 24, 16)))
    assert not torch.equal(network(image), small_network()(image))
    network(image).sum().backward()  # a kept table has no gradient and is not used here
    assert all(parameter.grad is not None for parameter in network.parameters())
