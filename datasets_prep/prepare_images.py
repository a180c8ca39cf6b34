"""A folder of images to LMDB: python datasets_prep/prepare_images.py DIV2K_train_HR DIV2K.lmdb --patch 480"""

from common import making_of, parser, run

from kdsr_arch.data.prepare.plans import convert_images

if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("folder", help="folder of images")
    arguments.add_argument("out", help="the store, NAME.lmdb")
    arguments.add_argument("--patch", type=int, default=0, help="side of sub-images; whole images by default")
    arguments.add_argument("--step", type=int, default=0, help="distance of sub-images; their side by default")
    arguments.add_argument("--strip", default="", help="ending to take off the names, such as x4")
    given = arguments.parse_args()
    sub_images = {"patch": given.patch, "step": given.step, "strip": given.strip}

    def work() -> object:
        making, low = making_of(given)
        return convert_images(given.folder, given.out, **sub_images, degrade=low, making=making)

    run(work)
