"""Videos to a clip LMDB: python datasets_prep/prepare_videos.py videos datasets/videos_GT.lmdb --halve"""

from common import create

if __name__ == "__main__":
    create("videos")
