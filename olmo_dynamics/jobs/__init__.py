"""Scripts that spread a collection over the nodes of a cluster, each task a part of the revisions.

>>> job = SlurmJob(["allenai/OLMo-2-0425-1B", "--out", "s.zarr"], tasks=8, time="04:00:00")
>>> job.script().splitlines()[4:6]
['#SBATCH --array=1-8', '#SBATCH --requeue']
"""

from olmo_dynamics.jobs.slurm import SlurmJob

__all__ = ["SlurmJob"]


def __dir__() -> list[str]:
    return sorted(__all__)
