"""Five kills of jobs that take seconds; `make kills` does 200, of all jobs."""

import numpy as np
import pytest
from kills.bench import killed
from kills.jobs import JOBS

pytestmark = pytest.mark.slow
KILLS = {"labelling": 1, "download": 2, "pages": 1, "publishing": 1}


@pytest.mark.parametrize("job", [j for j in JOBS if j.name in KILLS], ids=lambda job: job.name)
def test_a_job_that_is_killed_and_taken_up_again_ends_as_undisturbed(job):
    outcome = killed(job, KILLS[job.name], np.random.default_rng(0))
    assert outcome.kills.total() == KILLS[job.name] and not outcome.problems
