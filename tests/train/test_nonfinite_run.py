"""Broken numbers in whole trainings: across processes, and in offsets before the loss."""

from __future__ import annotations

import json
import re
import signal
import time
from functools import partial

import torch

from kdsr_arch.train.entry import train
from kdsr_arch.train.trainer import Trainer
from tests.helpers.networks import EDVR, make_network
from tests.helpers.processes import Child, start_two

STUDENT = ("num_in_ch", "num_out_ch", "num_feat", "num_block", "upscale")  # keywords of the student of conftest.py


def spoil(iteration: int, rank: int) -> None:
    """From now on the ground truth of an iteration is infinite on one process, where only the loss shows it."""
    from kdsr_arch.parallel import distributed

    original = Trainer._draw

    def draw(self: Trainer) -> None:
        original(self)
        if self.position + 1 == iteration and distributed.rank() == rank:
            self.batch = {**self.batch, "gt": torch.full_like(self.batch["gt"], float("inf"))}

    Trainer._draw = draw  # type: ignore[method-assign]


def test_all_processes_stop_at_what_is_broken_on_one(write_options, tmp_path) -> None:
    two = {"datasets": {"train": {"batch_size_per_gpu": 2}}, "logger": {"save_checkpoint_freq": 2}}
    ends = [child.finish() for child in start_two(write_options(**two), prepare=(partial(spoil, 3, rank=1),) * 2)]
    assert [code for code, _ in ends] == [2, 2]
    said = "".join(text for _, text in ends)
    sentence = "iteration 3: l_pix became NaN or infinite (process 1); the batch holds NaN or infinity in gt."
    assert said.count(sentence) == 1 and "Traceback" not in said
    assert "the state of iteration 2 is kept" in said


def test_offsets_that_explode_while_training_are_told_while_the_loss_is_as_usual(
    load, images, tmp_path, capsys
) -> None:
    """Only the prediction of offsets is trained, at an absurd rate: it runs away, the loss hardly moves."""
    built = make_network(EDVR)
    offsets = [n for n, m in built.named_modules() if n.endswith("conv_offset")]
    others = [n for n, m in built.named_modules() if n and not any(o == n or o.startswith(f"{n}.") for o in offsets)]
    torch.save({"params": built.state_dict()}, tmp_path / "sound.pth")
    opt = load(
        model_type="VideoDistillModel", scale=4, val=None,
        datasets={"val": None, "train": {"type": "ClipDataset", "dataroot_gt": str(images.parent), "num_frame": 3,
                                         "gt_size": 32}},
        network_g={**dict.fromkeys(STUDENT), **EDVR},
        path={"pretrain_network_g": str(tmp_path / "sound.pth")},
        train={"total_iter": 12, "scheduler": None, "optim_g": {"type": "Adam", "lr": 1.0},
               "stages": [{"iters": 12, "freeze": others}]},
        logger={"print_freq": 1},
    )  # fmt: skip
    assert train(opt) == 0
    said = capsys.readouterr().err
    warned = re.search(r"offsets are exploding in (\d+) of (\d+) modules: mean \|offset\| is \S+ pixels in (\S+)", said)
    assert warned is not None and any(f"{warned[3]}.conv_offset".endswith(name) for name in offsets)
    records = [json.loads(line) for line in (tmp_path / "experiments" / "tiny" / "history.jsonl").open()]
    before = said[: warned.start()].count("it/s")
    losses = [r["l_pix"] for r in records]
    assert 1 < before <= 12 and losses[before - 1] < 1.5 * losses[0]


def test_a_killed_holder_and_a_stale_owner_in_the_lock_file_hold_nothing(write_options, tmp_path) -> None:
    """SIGKILL while training; then a lock file that names a process that is long gone, or another machine's."""
    long = {"train": {"total_iter": 100000}, "logger": {"print_freq": 5, "save_checkpoint_freq": 5, "keep_last": 1}}
    path = write_options(**long, val=None)
    folder = tmp_path / "experiments" / "tiny"
    child = Child(path)
    while not list(folder.glob("training_states/*.state")):
        assert child.poll() is None, child.said()
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.finish()
    lock = folder.with_name(".tiny.lock")
    assert f"process {child.pid}" in lock.read_text()
    lock.write_text("process 1 on elsewhere\n")
    short = write_options(train={"total_iter": 8}, val=None)
    code, said = Child(short).finish()
    assert code == 0, said
    assert list(folder.parent.glob("tiny_archived_*"))
