"""The weighted mean of two states of the talker.

python average.py FIRST SECOND SHARE     -> work/talker.pt, SHARE (0 to 1) of it the second

The shipped voice is 0.3 of a copy of work/talker.pt made at step 14,500 and 0.7 of step 15,400:
fine-tuning on paragraphs had taken something from short sentences.
"""

import sys
from pathlib import Path

import torch

WORK = Path(__file__).parent / "work"


def main():
    first, second = (torch.load(path) for path in sys.argv[1:3])
    share = float(sys.argv[3])
    mean = {
        name: (1 - share) * tensor + share * second["model"][name]
        for name, tensor in first["model"].items()
    }
    torch.save({"model": mean, "step": second["step"]}, WORK / "talker.pt")


if __name__ == "__main__":
    main()
