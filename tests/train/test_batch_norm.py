"""A student with batch normalization: its statistics when averaged, resumed, tested, of small batches, in processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdsr_arch.infer.runner import Runner, window_indices
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.registry import register_all
from kdsr_arch.train.trainer import Trainer
from tests.helpers.options import evaluator
from tests.helpers.processes import in_two_processes
from tests.helpers.trainers import make_trainer, train

register_all()
TINY = {"type": "FastDVDnet", "scale": 2, "channels": [4, 6, 8], "num_interm": 3, "num_hr_feat": 4}


def trainer(norm: str = "batch", **changes: Any) -> Trainer:
    values = {"total_iter": 10, "ema_decay": 0.9, "optim_g": {"type": "Adam", "lr": 1e-3},
              "pixel_opt": {"type": "L1Loss"}, **changes}  # fmt: skip
    torch.manual_seed(4)
    options = {"scale": 2, "network_g": {**TINY, "norm": norm}, "model_type": "VideoDistillModel", "train": values}
    return make_trainer({**options, "manual_seed": 4}, clips(1)[0])


def clips(count: int, batch: int = 2, frames: int = 2, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [{"lq": torch.rand(batch, frames + 4, 3, 8, 8, generator=rng),
             "gt": torch.rand(batch, frames, 3, 16, 16, generator=rng)} for _ in range(count)]  # fmt: skip


def statistics(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.named_buffers() if "running" in name or "tracked" in name}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_the_dry_run_leaves_no_trace_in_the_statistics() -> None:
    stats = statistics(trainer().model.student)
    assert len(stats) == 3 * 26
    assert all(not value.any() for name, value in stats.items() if "mean" in name or "tracked" in name)


def test_statistics_of_one_step_by_hand() -> None:
    """Momentum 0.1 from mean 0 and variance 1; the three triples of every window count as one batch."""
    made, (batch,) = trainer(), clips(1)
    windows = torch.cat([batch["lq"][:, i : i + 5] for i in range(2)], 0).unflatten(0, (2, 2)).transpose(0, 1)
    triples = torch.cat([windows.flatten(0, 1)[:, i : i + 3] for i in range(3)])
    with torch.no_grad():
        seen = made.model.student.temp1.inc.convblock[0](triples.flatten(1, 2)).double()
    train(made, [batch])
    first = made.model.student.temp1.inc.convblock[1]
    torch.testing.assert_close(first.running_mean.double(), 0.1 * seen.mean((0, 2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(first.running_var.double(), 0.9 + 0.1 * seen.var((0, 2, 3)), atol=1e-6, rtol=1e-5)


def test_averages_take_the_newest_statistics() -> None:
    made = trainer()
    train(made, clips(3))
    assert same(statistics(made.model.ema.net), statistics(made.model.student))
    assert int(made.model.ema.net.temp1.inc.convblock[1].num_batches_tracked) == 3
    weight = "temp2.inc.convblock.0.weight"
    assert not torch.equal(made.model.ema.net.state_dict()[weight], made.model.student.state_dict()[weight])
    files = made.model.network_files()["net_g"]
    assert set(files["params"]) == set(files["params_ema"]) == set(made.model.student.state_dict())


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_resumed_equals_unbroken(norm: str) -> None:
    data = clips(4)
    whole, first, second = trainer(norm), trainer(norm), trainer(norm)
    train(whole, data)
    train(first, data[:2])
    train(second, clips(1, seed=9))  # whatever it was before
    second.model.load_state(first.model.state())
    train(second, data[2:], 2)
    one, two = whole.model, second.model
    for mine, other in ((one.student, two.student), (one.ema.net, two.ema.net)):
        assert same(mine.state_dict(), other.state_dict())


def test_one_small_window_trains() -> None:
    """A batch of one window, 4 pixels a side at its coarsest: statistics are of 12 and of 4 values a channel."""
    made = trainer()
    train(made, clips(3, batch=1, frames=1))
    made.check_finite(3)
    assert all(torch.isfinite(value).all() for value in made.model.student.state_dict().values())


def test_testing_uses_the_statistics_and_leaves_them() -> None:
    made = trainer()
    train(made, clips(3))
    before, net = statistics(made.model.student), made.model.student.train()
    lq, gt = torch.rand(5, 3, 8, 12), torch.rand(5, 3, 16, 24)
    sample = {"lq": lq, "gt": gt, "gt_index": [0, 1, 2, 3, 4], "name": "a", "frames": list("12345")}
    scores = evaluator(metrics={"psnr": {"type": "calculate_psnr", "crop_border": 0}})
    first_result = scores.run(net, [sample], torch.device("cpu"), progress=False)
    assert same(before, statistics(net)) and net.training and net.temp1.inc.convblock[1].training
    runner = Runner(net.eval(), traits_of(net))
    windows = [window_indices(i, 5, runner.traits.num_frame) for i in range(5)]
    alone = runner.restore(lq[None])[0]
    together = runner.restore(torch.stack([lq, torch.rand_like(lq)]), windows=windows)[0]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)  # whatever else is in the batch
    again = scores.run(net, [sample], torch.device("cpu"), progress=False)
    assert again.mean == first_result.mean


def test_without_batch_norm_nothing_is_tracked() -> None:
    made = trainer("none")
    train(made, clips(2, batch=1, frames=1))
    assert not statistics(made.model.student) and not statistics(made.model.ema.net)
    assert made.model.student.temp1.inc.convblock[0].bias is not None


def work() -> None:
    """One of two processes, each with its half of the batch."""
    from kdsr_arch.parallel import distributed

    distributed.start("pytorch")
    made = trainer()
    distributed.broadcast_modules(made.model.modules())
    (batch,) = clips(1, batch=4)
    half = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    train(made, [{name: images[half] for name, images in batch.items()}])
    first, second = distributed.gather(made.model.student.state_dict())
    stats = statistics(made.model.student)
    assert all(torch.equal(first[name], second[name]) for name in first if name not in stats)  # one network,
    means = [name for name in stats if name.endswith("mean")]
    assert not any(torch.equal(first[name], second[name]) for name in means)  # each with the statistics of its half,
    alone = trainer()
    train(alone, [{name: images[half] for name, images in batch.items()}])
    assert same(stats, statistics(alone.model.student))  # as it would be alone;
    distributed.broadcast_buffers(made.model.modules())
    for net in (made.model.student, made.model.ema.net):  # tested and saved with those of the first
        assert same({name: first[name] for name in stats}, statistics(net))
    distributed.stop()


def test_two_processes(tmp_path) -> None:
    in_two_processes(work, tmp_path)
