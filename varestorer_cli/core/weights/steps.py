"""``--steps``: the restorer of a model file that makes one pass, or the one that makes a pass per scale."""

from varestorer_cli.core.choices import Steps
from varestorer_cli.core.errors import UsageError
from varestorer_models.first_stage import FirstStageRestorer
from varestorer_models.multistep import MultiStepRestorer, multistep


def with_steps(restorer: FirstStageRestorer, steps: Steps, name: str) -> FirstStageRestorer:
    """The restorer itself, or the same parts with its teacher in the student's place.

    Args:
        restorer: as it was loaded.
        steps: what is asked for.
        name: the model's, for messages.

    Raises:
        UsageError: this model has no such way.
    """
    if steps is Steps.ONE and isinstance(restorer, MultiStepRestorer):
        raise UsageError(f"--steps one: {name} predicts scale after scale only; distil it first, or leave it out")
    if steps is not Steps.ALL:
        return restorer
    try:
        return multistep(restorer)
    except ValueError as error:
        raise UsageError(
            f"--steps all: {name} cannot restore scale after scale ({error}); take mini, or train one with varestorer "
            "train teacher --degraded"
        ) from error
