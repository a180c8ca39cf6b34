"""A folder of images to LMDB: python datasets_prep/prepare_images.py DIV2K_train_HR DIV2K.lmdb --patch 480"""

from common import create

if __name__ == "__main__":
    create("images")
