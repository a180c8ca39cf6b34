"""Make the demo's clips: python datasets_prep/prepare_demo_clips.py [FOLDER]"""

from common import parser, run

from kdsr_arch.data.prepare.demo_data import make_demo_clips

if __name__ == "__main__":
    arguments = parser(__doc__, making=False)
    arguments.add_argument("out", nargs="?", default="datasets/demo", help="folder for the clips (datasets/demo)")
    run(lambda: make_demo_clips(arguments.parse_args().out))
