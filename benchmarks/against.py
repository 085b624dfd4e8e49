"""Compare this tree with another revision: the bits of its answers to thousands of questions, its times, its memory.

    make against REV=84d66a7
    python benchmarks/against.py 84d66a7 --bits

The exit status is 1 if any answer differs, or cannot be had.
"""

import argparse
import sys
from pathlib import Path

import bits
import times
from bench import HERE, SMALL
from revisions import Side, of_revision, of_tree, this_tree

FEW = 40  # questions, with --small


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare this tree with another revision.")
    parser.add_argument("revision", nargs="?", default="HEAD~1", help="what git calls it; HEAD~1 by default")
    parser.add_argument("--tree", type=Path, help="compare with this tree of sources, run by this Python, instead")
    parser.add_argument("--bits", action="store_true", help="compare answers, and no times unless with --times")
    parser.add_argument(
        "--times", action="store_true", help="compare times and memory, and no answers unless with --bits"
    )
    parser.add_argument("--questions", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shown", type=int, default=5, help="how many differences are printed in full")
    parser.add_argument("--without-texts", action="store_true", help="do not compare the words of errors and warnings")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="steps to time, such as 'scan-*'")
    parser.add_argument("--list", action="store_true", help="print the names of the steps that are timed")
    parser.add_argument("--small", action="store_true", help="few questions, tiny data: to see that it runs")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="where data is kept")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of times to this file as well")
    parser.add_argument("--builds", type=Path, default=HERE / ".against", help="where other revisions are installed")
    options = parser.parse_args()
    for name in ("questions", "shown", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    options.steps = times.chosen(options.data, SMALL if options.small else 1, options.only)
    if not options.steps:
        parser.error(f"--only: there is no step {' or '.join(options.only)}; --list has them all")
    return options


def main() -> None:
    """Compare and print."""
    options = parse()
    if options.list:
        print(*(each.name for each in options.steps), sep="\n")
        return
    other = of_tree(options.tree) if options.tree else of_revision(options.revision, options.builds)
    sides: tuple[Side, Side] = (other, this_tree(other.python))
    print(f"{sides[1].name} against {sides[0].name}\n", flush=True)
    if other.note:
        print(f"note: {other.note}\n", flush=True)
    same = True
    if options.bits or not options.times:
        questions = min(options.questions, FEW) if options.small else options.questions
        same = bits.compare(sides, options.seed, questions, options.shown, not options.without_texts)
        print(flush=True)
    if options.times or not options.bits:
        table, failed = times.compare(sides, options.steps, options.rounds)
        print(table, *failed, sep="\n")
        same = same and not failed
        if options.markdown:
            options.markdown.write_text(f"{table}\n", encoding="utf-8")
    sys.exit(not same)


if __name__ == "__main__":
    main()
