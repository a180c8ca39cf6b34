"""Folding what taps recorded into frames and sequences."""

import pytest
import torch

from kdsr_arch.distill.taps import Feature, fold, same_frames
from tests.helpers.messages import refuses


def test_windows_of_a_clip_become_its_frames():
    x = torch.rand(6, 4, 5, 5)  # 2 clips of 3 windows
    feature = fold([x], 2, False, "tap")
    assert feature.arranged(False) is x
    torch.testing.assert_close(feature.arranged(True)[1, 2], x[5])


def test_a_recurrent_network_gives_the_same_whether_it_fires_per_frame_or_once():
    clips = torch.rand(2, 3, 4, 5, 5)
    per_frame = fold(list(clips.unbind(1)), 2, True, "tap")
    at_once = fold([clips.flatten(0, 1)], 2, True, "tap")
    as_clip = fold([clips], 2, True, "tap")
    for feature in (per_frame, at_once, as_clip):
        torch.testing.assert_close(feature.arranged(True), clips)
        assert feature.sequences == 2


def test_shared_modules_give_a_sequence_for_each_fire():
    first, second = torch.rand(6, 4, 5, 5), torch.rand(6, 4, 5, 5)  # 2 clips of 3 windows, fired twice
    clips = fold([first, second], 2, False, "tap").arranged(True)
    assert clips.shape == (4, 3, 4, 5, 5)
    torch.testing.assert_close(clips[0], first[:3])
    torch.testing.assert_close(clips[1], second[:3])
    torch.testing.assert_close(clips[2], first[3:])


def test_tuples_are_folded_part_by_part():
    feature = fold([(torch.rand(4, 2), torch.rand(4, 3, 1, 1))], 2, False, "tap")
    assert [t.shape for t in feature.arranged(True)] == [(2, 2, 2), (2, 2, 3, 1, 1)]


def test_of_the_longer_sequences_the_middle_is_taken():
    long, short = torch.rand(2, 7, 1, 2, 2), torch.rand(2, 3, 1, 2, 2)
    a, b = same_frames(Feature(long.flatten(0, 1), 2), Feature(short.flatten(0, 1), 2), "term")
    torch.testing.assert_close(a.arranged(True), long[:, 2:5])
    torch.testing.assert_close(b.arranged(True), short)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (Feature(torch.rand(4, 1), 2), Feature(torch.rand(6, 1), 2)),
        (Feature(torch.rand(4, 1), 2), Feature(torch.rand(4, 1), 4)),
    ],
)
def test_counts_that_do_not_agree_are_refused(ours, theirs):
    with refuses("term", 2):
        same_frames(ours, theirs, "term")


def test_what_cannot_be_stacked_is_refused():
    with refuses("tap", "(2, 3, 4, 4)", "(2, 3, 8, 8)"):
        fold([torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)], 2, False, "tap")
    with refuses("tap", 3, 2):
        fold([torch.rand(3, 3)], 2, False, "tap")
    with refuses("tap", "numbers of tensors"):
        fold([(torch.rand(2, 3),), (torch.rand(2, 3), torch.rand(2, 3))], 2, False, "tap")
