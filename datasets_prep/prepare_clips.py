"""A folder of clip folders to LMDB: python datasets_prep/prepare_clips.py datasets/Vid4/GT datasets/Vid4_GT.lmdb"""

from common import making_of, parser, run

from kdsr_arch.data.prepare.plans import convert_clips

if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("folder", help="folder of folders of frames")
    arguments.add_argument("out", help="the store, NAME.lmdb; its clip list is NAME.txt")
    arguments.add_argument("--clips", nargs="+", help="clips to take; all by default")
    given = arguments.parse_args()

    def work() -> object:
        making, low = making_of(given)
        return convert_clips(given.folder, given.out, only=given.clips, degrade=low, making=making)

    run(work)
