"""REDS to LMDB with the REDS4 split: python datasets_prep/prepare_reds.py datasets/REDS datasets/REDS"""

from common import making_of, parser, run

from kdsr_arch.data.prepare.plans import prepare_reds

if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("root", help="folder with train_sharp, val_sharp, train_sharp_bicubic, val_sharp_bicubic")
    arguments.add_argument("out", help="folder for the stores and the list files")
    given = arguments.parse_args()
    run(lambda: prepare_reds(given.root, given.out, making_of(given)[0]))
