"""Two processes share the items and get the numbers of one."""

import subprocess
import sys
import textwrap

import pytest

from tests.helpers.processes import environment

SCRIPT = textwrap.dedent("""
    import sys
    import torch
    torch.set_num_threads(1)
    from kdsr_arch.parallel import distributed
    from kdsr_arch.archs.bicubic_arch import Bicubic
    from kdsr_arch.errors import UserError
    from tests.helpers.networks import Recurrent
    from tests.helpers.options import evaluator

    distributed.start(sys.argv[1])
    torch.manual_seed(0)
    sizes = range(12, 17)
    samples = [{"lq": torch.rand(3, 16, w), "gt": torch.rand(3, 32, 2 * w), "name": f"i{w - 12}"} for w in sizes]
    scores = evaluator(metrics={"psnr": {"type": "calculate_psnr", "crop_border": 0}})
    result = scores.run(Bicubic(2), samples, torch.device("cpu"), progress=False)
    line = repr((result.mean, result.per_item, result.protocol))
    net = Recurrent()
    clips = [{"lq": torch.rand(t, 3, 16, 16), "gt": torch.rand(t, 3, 32, 32), "name": f"c{t}"} for t in (4, 2, 3)]
    for part in (clips, clips[:1]):  # more processes than clips as well
        result = scores.run(net, part, torch.device("cpu"), progress=False)
        line += repr((result.mean, result.per_item, result.frame_mean))
    samples[3]["gt"] = torch.rand(3, 99, 99)
    try:
        scores.run(Bicubic(2), samples, torch.device("cpu"), progress=False)
    except UserError as error:
        line += " refused: " + str(error)
    with open(f"{sys.argv[2]}.{distributed.rank()}", "w") as file:
        file.write(line)
    distributed.stop()
""")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    how = {"check": True, "env": environment(), "timeout": 120}
    subprocess.run([sys.executable, str(script), "none", str(tmp_path / "one")], **how)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    subprocess.run([*launch, str(script), "pytorch", str(tmp_path / "two")], **how)
    alone = (tmp_path / "one.0").read_text()
    assert "refused: 'i3': LR and HR do not pair" in alone and alone.count("i4") == 1 and alone.count("c4") == 2
    assert (tmp_path / "two.0").read_text() == (tmp_path / "two.1").read_text() == alone
