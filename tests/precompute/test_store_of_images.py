"""A stored teacher teaches as the live one does: same crops, same orientations, same loss."""

import json
import os
import re

import cv2
import lmdb
import numpy as np
import pytest
import torch
import yaml

from kdsr_arch.archs.blind_arch import BlindSRTeacher
from kdsr_arch.cli import main
from kdsr_arch.data.augment import Crop, apply_flip
from kdsr_arch.data.loader import open_dataset, train_batches
from kdsr_arch.data.mix_dataset import MixDataset
from kdsr_arch.data.store.lmdb_store import TEACHER_INFO
from kdsr_arch.data.store.teacher_store import OUTPUT, TeacherStore
from kdsr_arch.distill.teachers import build_teacher, stored_teacher
from kdsr_arch.io import save_tensors
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.options import Options, load_options
from kdsr_arch.precompute.fill import LiveTrainer, fill_store, measure_gain, plan_of
from kdsr_arch.precompute.live import LiveTeacher
from kdsr_arch.train.trainer import Trainer
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses
from tests.helpers.networks import make_network

TEACHER = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
MARGIN = 2 * 4 + 2  # HR pixels that the teacher reaches: four 3x3 layers at LR size, two at HR size


@pytest.fixture
def options(tmp_path, num_gpu):
    write_textures(tmp_path / "hr", 2, 96, 112)
    torch.manual_seed(3)
    state = {key: 4 * value for key, value in make_network(TEACHER).state_dict().items()}  # away from the student
    save_tensors({"params": state}, tmp_path / "teacher.pth")
    opt = {
        'name': 'cached', 'model_type': 'ImageDistillModel', 'scale': 2, 'num_gpu': num_gpu,
        'datasets': {'train': {
            'name': 'noise', 'type': 'ImagePairDataset', 'dataroot_gt': str(tmp_path / 'hr'), 'gt_size': 48,
            'use_hflip': True, 'use_rot': True, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 4}},
        'network_g': {'type': 'MSRResNet', 'num_feat': 8, 'num_block': 1, 'upscale': 2}, 'network_t': dict(TEACHER),
        'path': {'pretrain_network_t': str(tmp_path / 'teacher.pth')},
        'train': {'total_iter': 4, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'},
                  'distill_opt': {'out': {'type': 'L1Loss'},
                                  'body': {'type': 'L1Loss', 'at': 'body', 'loss_weight': 0.5}}},
    }  # fmt: skip
    return written(tmp_path, opt)


def test_a_mixture_of_stored_and_unstored_parts_is_refused(options, tmp_path):
    _, train = stored(options, tmp_path / "s.lmdb"), loaded(options).datasets["train"].plain()
    plain = {key: train[key] for key in ("type", "dataroot_gt", "gt_size")}
    part = {**plain, "teacher_cache": str(tmp_path / "s.lmdb")}
    MixDataset(datasets=[part, part], scale=2)
    with refuses("teacher_cache", "ImagePairDataset"):
        MixDataset(datasets=[part, plain], scale=2)


def written(folder, opt):
    (folder / "opt.yml").write_text(yaml.safe_dump(opt))
    return folder / "opt.yml"


def loaded(file, **train):
    opt = load_options(file, is_train=True)
    opt.datasets["train"] = opt.datasets["train"].model_copy(update=train)
    return opt


def opened(opt):
    return open_dataset(opt.datasets["train"], "datasets.train")


def stored(file, path, crops=0, one=False, taps=None):
    opt = loaded(file)
    fill_store(opt, path, plan_of(opt, taps, crops, one))
    return loaded(file, teacher_cache=str(path))


def content(path):
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def first_loss(opt, kind=Trainer):
    trainer = kind(opt)
    trainer.step(1)
    trainer.close()
    return trainer.figures()


def test_crops_of_whole_images_are_the_live_teachers_away_from_their_border(options, tmp_path):
    opt = stored(options, tmp_path / "store.lmdb")
    teacher = build_teacher(opt).eval()
    dataset = opened(opt)
    seen = set()
    for number in range(12):
        item = dataset.sample(number % len(dataset), np.random.default_rng(number))
        with torch.no_grad():
            live = teacher(item["lq"][None])[0]
        difference = (item["teacher"][OUTPUT].float() - live).abs()
        assert difference[:, MARGIN:-MARGIN, MARGIN:-MARGIN].max() < 1e-3  # half precision of values below 2
        seen.add(bool(difference.max() > 1e-2))
    assert seen == {True}  # the border does differ: the stored teacher has seen beyond it


def test_crops_are_the_live_teachers_everywhere_and_give_the_live_loss(options, tmp_path):
    opt = stored(options, tmp_path / "store.lmdb", crops=3)
    with_store, without = first_loss(opt), first_loss(opt, LiveTrainer)
    assert set(with_store) == set(without) and "l_body" in without
    for name in ("l_pix", "l_out", "l_body"):
        assert with_store[name] == pytest.approx(without[name], rel=1e-3)


def test_crops_follow_from_the_seed(options, tmp_path):
    places = []
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        opt = loaded(options).model_copy(update={"manual_seed": seed})
        fill_store(opt, tmp_path / f"{name}.lmdb", plan_of(opt, [], 2, True))
        places.append(TeacherStore(tmp_path / f"{name}.lmdb").crops)
    assert places[0] == places[1] and places[0] != places[2]


@pytest.mark.parametrize("change", [{"degradation": "BD"}, {"dataroot_lq": "lr"}, {}])
def test_a_store_of_other_lr_images_is_refused(options, tmp_path, change):
    """Sizes and names are the same; what the teacher made of the old images would be taught on the new ones."""
    opt = stored(options, tmp_path / "store.lmdb", crops=3)
    opened(opt)
    write_textures(tmp_path / "lr", 2, 48, 56)
    if not change:  # files were replaced
        for name in os.listdir(tmp_path / "hr"):
            image = cv2.imread(str(tmp_path / "hr" / name))
            cv2.imwrite(str(tmp_path / "hr" / name), 255 - image)
    own = {key: str(tmp_path / value) if key == "dataroot_lq" else value for key, value in change.items()}
    with refuses("store.lmdb", "degradation", "dataroot_lq", "kdsr cache-teacher"):
        opened(loaded(options, teacher_cache=str(tmp_path / "store.lmdb"), **own))


def test_several_teachers_that_a_term_joins_are_stored_each(options, tmp_path):
    opt = yaml.safe_load(options.read_text())
    opt["network_t2"] = dict(TEACHER)
    opt["path"]["pretrain_network_t2"] = opt["path"]["pretrain_network_t"]
    each = {"student": "output", "teacher": ["t", "t2"]}
    joined = {"type": "MTKDLoss", "num_feat": 4, "depths": [1], "num_heads": 1, **each}
    opt["train"]["distill_opt"] = {"each": {"type": "L1Loss", **each}, "joined": joined}
    opt = stored(written(tmp_path, opt), tmp_path / "store.lmdb", crops=3)
    with_store, without = first_loss(opt), first_loss(opt, LiveTrainer)
    assert with_store["l_each"] == pytest.approx(without["l_each"], rel=1e-3)
    assert with_store["l_joined"] > 0


@pytest.mark.parametrize("one", [True, False], ids=["turned", "each_orientation"])
def test_the_device_holds_what_the_loader_reads(options, tmp_path, one):
    opt = stored(options, tmp_path / "store.lmdb", one=one)
    kept = loaded(options, teacher_cache=str(tmp_path / "store.lmdb"), resident="device")
    for batch, ours in zip(drawn(opt), drawn(kept), strict=True):
        assert set(batch["teacher"]) == set(ours["teacher"]) == {OUTPUT, "body"}
        for name, maps in batch["teacher"].items():
            assert torch.equal(maps, ours["teacher"][name])


def drawn(opt):
    batches = train_batches(opt, opened(opt), 0)
    return [batches.expand(batch) for batch in batches]


@pytest.mark.parametrize("crops", [0, 3])
def test_a_privileged_teacher_is_stored_from_the_ground_truth(options, tmp_path, crops):
    decoder = {"type": "FSRCNN", "d": 8, "s": 4, "m": 1}
    net = {"type": "PISRTeacher", "scale": 2, "decoder": decoder}
    save_tensors({"params": make_network(net).state_dict()}, tmp_path / "teacher.pth")
    opt = yaml.safe_load(options.read_text()) | {"network_t": net, "network_g": {**decoder, "scale": 2}}
    opt["train"]["distill_opt"] = {"out": {"type": "L1Loss"}, "map": {"type": "L1Loss", "at": "expanding"}}
    opt = stored(written(tmp_path, opt), tmp_path / "store.lmdb", crops=crops)
    if crops:  # crops of whole images have seen what lies beyond their border
        with_store, without = first_loss(opt), first_loss(opt, LiveTrainer)
        assert {"l_out", "l_map"} <= set(without) and with_store == pytest.approx(without, rel=1e-3)
    item = opened(opt).sample(0, np.random.default_rng(5))
    with torch.no_grad():
        restored = build_teacher(opt).eval()(rgb_to_y(item["gt"])[None])[0]
    inner = slice(16, -16) if not crops else slice(None)
    torch.testing.assert_close(
        item["teacher"][OUTPUT].float()[:, inner, inner], restored[:, inner, inner], atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("name", ["a\nb", f"{'d' * 240}/{'e' * 240}/{'f' * 21}"])
def test_a_name_that_no_store_holds_is_told_by_its_file_before_the_teacher_runs(options, tmp_path, name):
    file = tmp_path / "hr" / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "hr" / "1.png").rename(file)
    opt = loaded(options)
    with refuses(file, "name"):
        fill_store(opt, tmp_path / "s.lmdb", plan_of(opt, [], 0, False))
    assert not [*tmp_path.glob("*s.lmdb*")]


def test_a_store_made_without_flips_is_not_turned_unasked(options, tmp_path, caplog):
    opt, path = loaded(options, use_hflip=False, use_rot=False), tmp_path / "store.lmdb"
    fill_store(opt, path, plan_of(opt, [], 0, False))
    opened(loaded(options, use_hflip=False, use_rot=False, teacher_cache=str(path)))
    with refuses(path, "use_hflip", "--one-orientation"):
        opened(loaded(options, teacher_cache=str(path)))
    info = json.loads((path / TEACHER_INFO).read_text())
    del info["backwards"]  # as in a store that notes nothing of it
    (path / TEACHER_INFO).write_text(json.dumps(info))
    opened(loaded(options, teacher_cache=str(path)))
    assert str(path) in caplog.text and "not exact" in caplog.text


def test_one_orientation_turns_the_stored_output(options, tmp_path):
    opt = stored(options, tmp_path / "store.lmdb", one=True, taps=[])
    store = TeacherStore(tmp_path / "store.lmdb")
    assert store.orientations == [0] and list(store.names) == [OUTPUT]
    plain = store.read("0", Crop(3, 4, 10, 12), (False, False, False))[OUTPUT]
    turned = store.read("0", Crop(3, 4, 10, 12), (True, False, True))[OUTPUT]
    assert np.array_equal(turned, apply_flip(plain.numpy(), (True, False, True)))
    assert "teacher" in opened(opt).sample(0, np.random.default_rng(0))


def test_micro_batches_get_their_own_part(options, tmp_path):
    opt = stored(options, tmp_path / "store.lmdb", crops=2)
    opt.train.accumulation = 2
    assert first_loss(opt)["l_out"] == pytest.approx(first_loss(opt, LiveTrainer)["l_out"], rel=1e-3)


def test_only_what_terms_compare_is_read_and_crops_stay_the_same(options, tmp_path):
    opt = stored(options, tmp_path / "store.lmdb", crops=2, taps=["body", "conv_first"])
    terms = opt.train.distill_opt

    def first_batch(names):
        opt.train.distill_opt = {name: terms[name] for name in names}
        return next(Trainer(opt).batches)

    both, output, alone = first_batch(["out", "body"]), first_batch(["out"]), first_batch([])
    assert set(both["teacher"]) == {OUTPUT, "body"}
    assert set(output["teacher"]) == {OUTPUT} and not alone["teacher"]
    assert torch.equal(output["teacher"][OUTPUT], both["teacher"][OUTPUT])
    assert torch.equal(alone["lq"], both["lq"])


def test_command_stores_and_measures(options, tmp_path, capsys):
    assert main(["cache-teacher", "-opt", str(options), "-o", str(tmp_path / "store.lmdb")]) == 0
    said = capsys.readouterr().out
    assert "steps per second" in said and "teacher_cache" in said and "inner half" in said
    info = json.loads((tmp_path / "store.lmdb/teacher.json").read_text())
    assert info["border"]["inner_db"] > 60 > info["border"]["all_db"]
    assert main(["cache-teacher", "-opt", str(options), "-o", str(tmp_path / "store.lmdb")]) == 2
    assert "exists already" in capsys.readouterr().err
    gain = measure_gain(loaded(options), tmp_path / "store.lmdb", 1, 1)
    assert gain.live > 0


@pytest.mark.parametrize("iterations", [1, 5])
def test_a_short_training_is_measured_by_its_own_steps(options, tmp_path, capsys, iterations):
    opt = yaml.safe_load(options.read_text())
    schedule = {"type": "CosineAnnealingRestartLR", "periods": [iterations], "restart_weights": [1], "eta_min": 0}
    opt["train"] |= {"total_iter": iterations, "scheduler": schedule}
    arguments = ["-opt", str(written(tmp_path, opt)), "-o", str(tmp_path / "store.lmdb"), "--crops", "1"]
    assert main(["cache-teacher", *arguments]) == 0
    rates = re.search(r"steps per second: (\S+) with the live teacher, (\S+) with the store", capsys.readouterr().out)
    assert rates and min(map(float, rates.groups())) > 0


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"network_t": {**TEACHER, "num_block": 2}}, ["network_t", "datasets.train.teacher_cache"]),
        ({"scale": 4}, ["datasets.train", 2, 4]),
    ],
)
def test_a_store_of_something_else_is_refused(options, tmp_path, change, names):
    opt = stored(options, tmp_path / "store.lmdb", taps=[])
    changed = Options.model_validate(opt.plain() | change)
    changed.datasets["train"].scale = changed.scale
    with refuses(tmp_path / "store.lmdb", *names):
        opened(changed)
        stored_teacher(changed)


@pytest.mark.parametrize("kept", [None, 0, 100, 0.5])
def test_a_store_without_all_its_values_is_refused(options, tmp_path, kept):
    opt, data = stored(options, tmp_path / "store.lmdb", taps=[]), tmp_path / "store.lmdb" / "data.mdb"
    if kept is None:
        data.unlink()
    else:
        os.truncate(data, int(kept * data.stat().st_size) if isinstance(kept, float) else kept)
    for read in (opened, stored_teacher):
        with refuses(tmp_path / "store.lmdb", "data.mdb", "kdsr cache-teacher", without=["convert"]):
            read(opt)


def test_taps_that_are_not_stored_are_named(options, tmp_path):
    opt = stored(options, tmp_path / "store.lmdb", taps=[])
    with refuses("train.distill_opt.body.teacher", "store.lmdb", "'body'", "output", "--taps"):
        Trainer(opt)


def test_what_cannot_be_stored(options, tmp_path):
    with refuses(tmp_path, "kdsr cache-teacher"):
        TeacherStore(tmp_path)
    opt = loaded(options, type="SingleImageDataset")
    with refuses("datasets.train", "SingleImageDataset", "ImagePairDataset", "ClipDataset"):
        fill_store(opt, tmp_path / "a.lmdb", plan_of(opt, [], 0, True))
    with refuses("datasets.train.resident", "--crops"):  # before hours are spent on what no training could read
        plan_of(loaded(options, resident="device"), [], 2, True)
    opt = loaded(options)
    with refuses(tmp_path / "a", ".lmdb"):
        fill_store(opt, tmp_path / "a", plan_of(opt, [], 0, True))
    with refuses("MSRResNet", "'nowhere'", "f_sr"):
        fill_store(opt, tmp_path / "a.lmdb", plan_of(opt, ["nowhere"], 0, True))
    with refuses("cache-teacher", "ground truth together"):
        LiveTeacher(BlindSRTeacher(2, 4, 1, 1), opt, [])
    whole = (tmp_path / "hr/0.png").read_bytes()
    (tmp_path / "hr/0.png").write_bytes(whole[:300])
    with refuses("hr/0.png"):
        fill_store(loaded(options), tmp_path / "a.lmdb", plan_of(opt, [], 0, True))
    assert not (tmp_path / "a.lmdb").exists() and not list(tmp_path.glob(".a*"))


def damaged(png: bytes) -> bytes:
    """Damage the pixels of a PNG, which nobody sees who does not decode it."""
    start = png.index(b"IDAT") + 4
    return png[:start] + bytes(40) + png[start + 40 :]


def test_a_store_that_was_broken_off_goes_on(options, tmp_path):
    """A torn image stops the filling; what was stored before it is not made again, and the store is the same."""
    stored(options, tmp_path / "unbroken.lmdb", crops=2)
    torn, broken = tmp_path / "hr/1.png", tmp_path / "broken.lmdb"
    whole = torn.read_bytes()
    torn.write_bytes(damaged(whole))
    with refuses("hr/1.png"):
        stored(options, broken, crops=2)
    with refuses("broken.lmdb", "not finished", "kdsr cache-teacher"):
        TeacherStore(broken)
    torn.write_bytes(whole)
    with refuses(".broken.lmdb.partial", "crops", 2, 3):
        stored(options, broken, crops=3)
    given = []
    with pytest.MonkeyPatch.context() as patch:
        plain = LiveTeacher.__call__
        patch.setattr(LiveTeacher, "__call__", lambda self, frames: given.append(frames) or plain(self, frames))
        stored(options, broken, crops=2)
    assert len(given) == 8 * 2  # orientations and crops of the one image
    assert content(broken) == content(tmp_path / "unbroken.lmdb")
    infos = [json.loads((store / TEACHER_INFO).read_text()) for store in (broken, tmp_path / "unbroken.lmdb")]
    assert infos[0] == infos[1]
    assert not list(tmp_path.glob(".broken*"))


def test_images_that_changed_under_an_unfinished_store(options, tmp_path):
    (tmp_path / "hr/2.png").write_bytes(damaged((tmp_path / "hr/0.png").read_bytes()))
    with refuses("hr/2.png"):
        stored(options, tmp_path / "a.lmdb", crops=2)
    os.utime(tmp_path / "hr/0.png", (1, 1))
    with refuses(".a.lmdb.partial", "changed"):
        stored(options, tmp_path / "a.lmdb", crops=2)


def test_other_weights_than_the_store_was_made_with(options, tmp_path):
    """A teacher that was trained on behind the store's back."""
    opt = stored(options, tmp_path / "a.lmdb", crops=2)
    stored_teacher(opt)
    net = make_network(TEACHER)
    save_tensors({"params": net.state_dict()}, tmp_path / "teacher.pth")
    with refuses("a.lmdb", "path.pretrain_network_t", "datasets.train.teacher_cache"):
        stored_teacher(opt)


def test_an_image_that_came_later_is_named(options, tmp_path):
    opt = stored(options, tmp_path / "store.lmdb", taps=[])
    (tmp_path / "hr/new.png").write_bytes((tmp_path / "hr/0.png").read_bytes())
    with refuses("datasets.train", "store.lmdb", "'new'"):
        opened(opt)
