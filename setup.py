"""Source tree in, installable package out: `bpmt_ext`, its configs and converters as data, and the command `bpmt`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"

setup(
    name="bpmt_ext",
    version=re.search(r'__version__ = "(.+?)"', (HERE / "bpmt_ext/__init__.py").read_text("utf-8")).group(1),
    description="Body parts as modalities: gait recognition and action recognition from skeletons",
    long_description=README.read_text("utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    # The two folders lie at the top for people to find and inside the package once installed.
    packages=[*find_packages(include=["bpmt_ext", "bpmt_ext.*"]), "bpmt_ext.configs", "bpmt_ext.datasets"],
    package_dir={"bpmt_ext.configs": "configs", "bpmt_ext.datasets": "datasets"},
    package_data={
        "bpmt_ext.configs": ["**/*.yaml"],
        "bpmt_ext.datasets": ["**/*.json", "**/*.md", "**/*.txt"],
        "bpmt_ext.report": ["published.yaml", "page.css", "page.js"],
    },
    include_package_data=False,
    entry_points={"console_scripts": ["bpmt = bpmt_ext.cli:main"]},
    install_requires=[
        "torch>=2.5.1",
        "numpy>=1.26",
        "pydantic>=2.8",
        "pyyaml>=6.0",
        "tqdm>=4.60",
        "tensorboard>=2.14",
        "matplotlib>=3.8",
        "pillow>=10.1",
        "pytorch-metric-learning>=2.5",
        "kornia>=0.7.3",
        "safetensors>=0.4",
    ],
    extras_require={
        "gallery": ["faiss-cpu"],
        "video": ["rtmlib"],
        "export": ["onnx", "onnxscript", "onnxruntime"],
        "test": ["pytest", "pytest-xdist", "hypothesis", "ruff", "scipy>=1.11", "setuptools>=64"],
    },
)
