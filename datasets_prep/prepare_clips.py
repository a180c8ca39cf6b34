"""A folder of clip folders to LMDB: python datasets_prep/prepare_clips.py datasets/Vid4/GT datasets/Vid4_GT.lmdb"""

from common import create

if __name__ == "__main__":
    create("clips")
