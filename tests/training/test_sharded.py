import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_sharded_training_equals_replicated_training():
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*launcher, str(Path(__file__).parent / "shard_and_replicate.py")]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["processes"] == 2
    assert result["sharded"]  # every parameter: Accelerate alone would quietly replicate on CPUs
    replicated, sharded = result["losses"]
    assert replicated[-1] < 0.9 * replicated[0]
    assert sharded == pytest.approx(replicated, rel=1e-4)
