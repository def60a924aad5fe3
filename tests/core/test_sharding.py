"""Array jobs by their environment, and exit codes in a manager's words."""

import pytest

from varestorer_cli.core.errors import ExitCode, ExitCodes, UsageError, exit_code_for
from varestorer_cli.core.sharding import Shard, parse_shard


def slurm(index: int, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    return {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_MAX": str(last),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        (slurm(0, 0, 31, 32), Shard(0, 32)),
        (slurm(31, 0, 31, 32), Shard(31, 32)),
        (slurm(1, 1, 16, 16), Shard(0, 16)),
        (slurm(7, 1, 9, 5, step=2), Shard(3, 5)),
        ({"SGE_TASK_ID": "4", "SGE_TASK_FIRST": "2", "SGE_TASK_LAST": "8", "SGE_TASK_STEPSIZE": "2"}, Shard(1, 4)),
        ({"LSB_JOBINDEX": "3", "LSB_JOBINDEX_END": "10"}, Shard(2, 10)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "100"}, Shard(0, 100)),
        ({"BATCH_TASK_INDEX": "2", "BATCH_TASK_COUNT": "3"}, Shard(2, 3)),
        ({"CLOUD_RUN_TASK_INDEX": "1", "CLOUD_RUN_TASK_COUNT": "2"}, Shard(1, 2)),
    ],
)
def test_auto(environment: dict[str, str], shard: Shard) -> None:
    assert parse_shard("auto", environment) == shard


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"PBS_ARRAY_INDEX": "3"}, Shard(3, 16)),
        ({"PBS_ARRAYID": "3"}, Shard(3, 16)),
        ({"JOB_COMPLETION_INDEX": "15"}, Shard(15, 16)),
        ({"SGE_TASK_ID": "16"}, Shard(15, 16)),
        (slurm(3, 3, 7, 2), Shard(3, 16)),  # two tasks of sixteen, submitted again
    ],
)
def test_an_explicit_number_of_parts_wins(environment: dict[str, str], shard: Shard) -> None:
    assert parse_shard("auto/16", environment) == shard


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("auto", {}, "this is no array job"),
        ("auto", {"SGE_TASK_ID": "undefined"}, "this is no array job"),
        ("auto", {"LSB_JOBINDEX": "0"}, "this is no array job"),
        ("auto", {"PBS_ARRAY_INDEX": "3"}, "PBS does not say how many.*auto/16"),
        ("auto", slurm(5, 1, 9, 3), "3 tasks with numbers 1 to 9"),
        ("auto/4", {"PBS_ARRAY_INDEX": "4"}, "PBS_ARRAY_INDEX=4 is none of 4 tasks numbered from 0"),
        ("auto/0", {"PBS_ARRAY_INDEX": "0"}, "none of 0 tasks"),
        ("3", {}, "expected I/N"),
    ],
)
def test_what_cannot_be_known_is_said(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shard(text, environment)


def test_a_plain_shard_ignores_the_environment() -> None:
    assert parse_shard("1/4", slurm(3, 0, 3, 4)) == Shard(1, 4)


def test_exit_codes_of_opencue() -> None:
    assert exit_code_for(ExitCode.OUT_OF_MEMORY, ExitCodes.OPENCUE) == 33
    assert exit_code_for(ExitCode.OUT_OF_MEMORY, ExitCodes.PLAIN) == 6
    for code in set(ExitCode) - {ExitCode.OUT_OF_MEMORY}:
        assert exit_code_for(code, ExitCodes.OPENCUE) == code
        assert code not in (137, 256, 286)  # OpenCue's own


def test_shards_count_from_zero() -> None:
    assert Shard.parse("0/3") == Shard(0, 3)
    with pytest.raises(UsageError, match="shards count from 0, so 3 shards are 0/3 to 2/3"):
        Shard.parse("3/3")
    with pytest.raises(UsageError, match="expected I/N"):
        Shard.parse("one/3")


@pytest.mark.parametrize("count", [1, 3, 7])
def test_each_key_belongs_to_one_shard(count: int) -> None:
    keys = [f"folder/{i}.png" for i in range(200)]
    parts = [{key for key in keys if Shard(i, count).holds(key)} for i in range(count)]
    assert sum(len(part) for part in parts) == 200
    assert set().union(*parts) == set(keys)
    assert min(len(part) for part in parts) > 200 / count / 3
