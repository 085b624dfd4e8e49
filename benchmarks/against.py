"""Compare this tree with another revision: the bits of its answers to thousands of questions, its times, its memory.

    make against REV=84d66a7
    python benchmarks/against.py 84d66a7 --bits

The exit status is 1 if any answer differs.
"""

import argparse
import sys
from pathlib import Path

import bits
from revisions import Side, of_revision, of_tree, this_tree

HERE = Path(__file__).parent
SMALL = 60  # questions, with --small


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare this tree with another revision.")
    parser.add_argument("revision", nargs="?", default="HEAD~1", help="what git calls it; HEAD~1 by default")
    parser.add_argument("--tree", type=Path, help="compare with this tree of sources, run by this Python, instead")
    parser.add_argument("--bits", action="store_true", help="compare answers only")
    parser.add_argument("--questions", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shown", type=int, default=5, help="how many differences are printed in full")
    parser.add_argument("--without-texts", action="store_true", help="do not compare the words of errors and warnings")
    parser.add_argument("--small", action="store_true", help="few questions, to see that it runs")
    parser.add_argument("--builds", type=Path, default=HERE / ".against", help="where other revisions are installed")
    options = parser.parse_args()
    for name in ("questions", "shown"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main() -> None:
    """Compare and print."""
    options = parse()
    other = of_tree(options.tree) if options.tree else of_revision(options.revision, options.builds)
    sides: tuple[Side, Side] = (other, this_tree())
    print(f"{sides[1].name} against {sides[0].name}\n")
    if other.note:
        print(f"note: {other.note}\n")
    questions = min(options.questions, SMALL) if options.small else options.questions
    same = bits.compare(sides, options.seed, questions, options.shown, not options.without_texts)
    sys.exit(not same)


if __name__ == "__main__":
    main()
