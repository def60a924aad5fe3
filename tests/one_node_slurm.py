"""A Slurm of one node for tests: own key, own ports, own folders, ended with its processes.

Debian: ``apt-get install slurmctld slurmd slurm-client munge``. Nothing of an installed Slurm is read or changed: the
daemons get their configuration by ``SLURM_CONF`` and run as the user who runs the tests.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))

# cred_expire: a job that is put back waits until the credentials of its last start have expired, else two minutes.
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of Slurm that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PLACES) is None]


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Slurm of one node with four CPUs.

    Args:
        folder: for all of its files.

    Yields:
        The environment in which ``sbatch`` and its like find it.

    Raises:
        RuntimeError: it does not come up in a minute; with the ends of the logs.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(_CONFIG.format(folder=folder, host=host, user=getpass.getuser(), ports=_free_ports(2)))
    (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    environment = {**os.environ, "PATH": _PLACES, "SLURM_CONF": str(config)}
    own = [
        f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("pid-file", "log-file", "seed-file", "socket")
    ]
    commands = (
        ["munged", "--foreground", "--force", "--num-threads=2", f"--key-file={key}", *own],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", host],
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as out:
                started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                _wait_until(lambda: (folder / "munge.socket").exists(), folder, started)
        _wait_until(lambda: "idle" in _said(["sinfo", "-h", "-o", "%T"], environment), folder, started)
        yield environment
    finally:
        subprocess.run(
            ["scancel", "--full", "-u", getpass.getuser()], env=environment, capture_output=True, check=False
        )
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _wait_until(happened: Callable[[], bool], folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + 60
    while not happened():
        dead = [process.args for process in started if process.poll() is not None]
        if dead or time.monotonic() > end:
            logs = "\n".join(
                f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
                for path in sorted([*folder.glob("*.log"), *folder.glob("*.out")])
            )
            raise RuntimeError(f"Slurm does not come up (ended: {dead}):\n{logs}")
        time.sleep(0.1)
