"""Vimeo-90K septuplets to LMDB: python datasets_prep/prepare_vimeo90k.py datasets/vimeo_septuplet datasets/vimeo90k"""

from common import making_of, parser, run

from kdsr_arch.data.prepare.plans import prepare_vimeo

if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("root", help="folder with 'sequences' and the list files, as unpacked")
    arguments.add_argument("out", help="folder for the store and the list file")
    arguments.add_argument("--split", default="train", help="train, test, or another list sep_SPLITlist.txt")
    given = arguments.parse_args()

    def work() -> object:
        making, low = making_of(given)
        return prepare_vimeo(given.root, given.out, split=given.split, degrade=low, making=making)

    run(work)
