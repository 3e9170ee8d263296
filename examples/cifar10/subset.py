"""Unpack the first pictures of every class from a zip with train/CLASS/*.jpg and test/CLASS/*.jpg.

python subset.py cifar10-imagefolder.zip data --pictures 500
"""

from __future__ import annotations

import argparse
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=500, help="of each class and split")
    arguments = parser.parse_args()
    taken: Counter[tuple[str, str]] = Counter()
    with zipfile.ZipFile(arguments.archive) as archive:
        for name in sorted(archive.namelist()):
            split, label, file = PurePosixPath("//", name).parts[-3:]
            if split not in ("train", "test") or not file.endswith((".jpg", ".jpeg", ".png")):
                continue
            if taken[split, label] < arguments.pictures:
                taken[split, label] += 1
                target = arguments.out / split / label / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    print(f"{arguments.out}: {sum(taken.values())} pictures of {len({label for _, label in taken})} classes")


if __name__ == "__main__":
    main()
