"""Vimeo-90K septuplets to LMDB: python datasets_prep/prepare_vimeo90k.py datasets/vimeo_septuplet datasets/vimeo90k"""

from common import create

if __name__ == "__main__":
    create("vimeo")
