"""Videos to a clip LMDB: python datasets_prep/prepare_videos.py videos datasets/videos_GT.lmdb --halve"""

from common import making_of, parser, run

from kdsr_arch.data.prepare.plans import prepare_video_clips

if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("folder", help="folder of video files and folders of frames")
    arguments.add_argument("out", help="the store, NAME.lmdb")
    arguments.add_argument("--halve", action="store_true", help="halve the size, which makes compressed video clean")
    arguments.add_argument("--multiple", type=int, default=4, help="crop height and width to multiples of this")
    arguments.add_argument("--exclude", nargs="+", default=[], help="clips to leave out")
    given = arguments.parse_args()
    options = {"halved": given.halve, "multiple": given.multiple, "exclude": given.exclude}
    run(lambda: prepare_video_clips(given.folder, given.out, **options, making=making_of(given)[0]))
