"""REDS to LMDB with the REDS4 split: python datasets_prep/prepare_reds.py datasets/REDS datasets/REDS"""

from common import create

if __name__ == "__main__":
    create("reds")
