"""The iterative restorer, one pass for each scale: the baseline that one step is measured against.

degraded -> pre-restorer -> encoder -> bits of all scales, summed up in the extra block, which is read once into the
key/value cache; then the bits of scale after scale, each seeing all of the degraded image and the restored scales
before it. The weights are laid out like the one-step student's, which starts from them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig, Sampling
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.sampler import sample_multistep
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Condition, Transformer


class MultiStepRestorer(OneStepRestorer):
    """Scale after scale, each seeing the sum of the degraded image's pyramid and the scales before it.

    As many passes as scales, and one more for the degraded image; slow.

    Args:
        config: settings; of the samplings there are ``argmax`` (default) and ``sample``.
        prerestorer: image (B, 3, H, W) in [0, 1] -> the same size.
        tokenizer: autoencoder, quantiser and schedule.
        transformer: trained to see degraded images; its head says bits.

    Raises:
        ValueError: the transformer has another head.
    """

    def __init__(
        self, config: RestorerConfig, prerestorer: nn.Module, tokenizer: ImageTokenizer, transformer: Transformer
    ) -> None:
        if transformer.config.head != "bits":
            raise ValueError(f"restoring scale after scale needs a bits head, not {transformer.config.head!r}")
        sampling: Sampling = "sample" if config.sampling == "sample" else "argmax"
        super().__init__(replace(config, sampling=sampling, steps="all"), prerestorer, tokenizer, transformer)

    def restored_codes(
        self, latent_Bdhw: Tensor, condition: Condition | None, sampling: Sampling, uniforms_BLd2: Tensor | None
    ) -> Tensor:
        """Latent of a pre-restored image -> accumulated codes, scale after scale; as of the one-step restorer."""
        if sampling not in ("argmax", "sample"):
            raise ValueError(f"scale after scale, bits are drawn or the likelier ones; {sampling!r} is for one step")
        if sampling == "sample" and uniforms_BLd2 is None:
            raise ValueError("sampling='sample' needs uniforms of shape (B, L, d, 2)")
        schedule = self.tokenizer.schedule_for((latent_Bdhw.shape[-2], latent_Bdhw.shape[-1]))
        bits = sample_multistep(
            self.transformer,
            self.tokenizer.quantizer,
            schedule,
            self.transformer.encode_condition() if condition is None else condition,
            uniforms_BLd2=uniforms_BLd2 if sampling == "sample" else None,
            degraded_Bld=self.tokenizer.quantize(latent_Bdhw).extra_tokens(),
        )
        return self.tokenizer.quantizer.accumulate(bits, schedule)


def multistep(restorer: FirstStageRestorer) -> MultiStepRestorer:
    """The iterative restorer of the same parts, the transformer that predicts scale after scale in the student's place.

    Raises:
        ValueError: there is no such transformer, or it has another head.
    """
    if isinstance(restorer, MultiStepRestorer):
        return restorer
    if not isinstance(restorer, OneStepRestorer) or restorer.teacher is None:
        raise ValueError("the file holds no transformer that predicts scale after scale")
    return MultiStepRestorer(restorer.config, restorer.prerestorer, restorer.tokenizer, restorer.teacher)


def restorer_from_components(config: RestorerConfig, components: Mapping[str, nn.Module]) -> FirstStageRestorer:
    """Build a restorer from modules by name: a pre-restorer alone, or all three, and the teacher where it is there.

    Raises:
        ValueError: a part is missing, or ``config.tile`` is no tile of a pre-restorer alone.
    """
    if set(components) == {"prerestorer"}:
        step = config.tile_step
        if step < 1 or config.tile < step or config.tile % step:
            raise ValueError(f"a pre-restorer alone has tiles of a multiple of {step} pixels, not {config.tile}")
        return FirstStageRestorer(config, components["prerestorer"])
    missing = [name for name in ("prerestorer", "tokenizer", "transformer") if name not in components]
    if missing:
        raise ValueError(f"a restorer needs {', '.join(missing)} too; got only {', '.join(components)}")
    tokenizer = cast(ImageTokenizer, components["tokenizer"])
    transformer = cast(Transformer, components["transformer"])
    if config.steps == "all":
        return MultiStepRestorer(config, components["prerestorer"], tokenizer, transformer)
    teacher = cast(Transformer | None, components.get("teacher"))
    return OneStepRestorer(config, components["prerestorer"], tokenizer, transformer, teacher)
