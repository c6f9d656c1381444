"""Run the suite, or some of its rows, and print a table.

    python -m benchmarks                      # all rows
    python -m benchmarks 'step-*' import      # some of them
    python -m benchmarks --quick              # small sizes, to see that all rows run

Each row runs in a process of its own, with an allocator that keeps freed memory (KEEP_MEMORY; `--default-allocator`
leaves it as it is). Within a row the contestants alternate: our way, the literal way, and the parts of the limit. The
limit is the time that this machine needs for the matrix products of the work, each in its own shape and dtype, or for
its bytes at the rate of copying. Shares and ratios are medians over the rounds.

Columns: limit and reached in seconds of processor time over all threads, which other work on the machine disturbs
little; the share of the limit that is reached by processor time and by the wall clock; the share or the time that is
aimed at; our time over that of the literal way; rates by the wall clock; the peak memory of the process after our first
run.
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .measuring import KEEP_MEMORY, describe_machine, measure_row
from .rows import ROWS


COLUMNS = ("row", "limit", "reached", "share", "wall", "aim", "ratio", "memory", "work")


def line(result: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    if "processor" not in result:
        return [result["row"], *[""] * (len(COLUMNS) - 2), result["notes"]]
    processor, wall = result["processor"], result["wall"]
    rates = [f"{value:.3g} {unit}" for unit, value in wall.items() if unit.endswith("/s")]
    return [
        result["row"],
        f"{processor['limit']:.3g} s" if "limit" in processor else "",
        f"{processor['reached']:.3g} s",
        f"{processor['share']:.0%}" if "share" in processor else "",
        f"{wall['share']:.0%}" if "share" in wall else "",
        result["aim"],
        f"{processor['ratio']:.2f} x" if "ratio" in processor else "",
        f"{result['peak_gib']:.1f} GiB",
        "; ".join(filter(None, [result["work"], ", ".join(rates), result["notes"]])),
    ]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="*", default=["*"], help="Names of rows, or patterns such as 'step-*'.")
    parser.add_argument("--list", action="store_true", help="Print the names of the rows, and measure nothing.")
    parser.add_argument("--quick", action="store_true", help="Use small sizes and one round.")
    parser.add_argument("--repeats", type=int, default=5, help="Number of rounds.")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="Number of threads of torch.")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), help="File for all figures.")
    parser.add_argument("--default-allocator", action="store_true", help="Do not set the variables of the allocator.")
    options = parser.parse_args()
    known = list(ROWS)
    chosen = [name for name in known if any(fnmatch(name, pattern) for pattern in options.rows)]
    unknown = [pattern for pattern in options.rows if not any(fnmatch(name, pattern) for name in known)]
    if unknown:
        parser.error(f"there are no rows {', '.join(unknown)}. Rows: {', '.join(known)}")
    if options.list:
        print("\n".join(chosen))
        return
    if not options.default_allocator:
        os.environ.update(KEEP_MEMORY)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # A process for each row: the allocator starts anew, and the peak memory is that of the row.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        described = pool.submit(describe_machine, options.threads).result()
        print("\n".join(f"{name}: {value}" for name, value in described.items()))
        print(" | ".join(COLUMNS), flush=True)
        results = []
        for name in chosen:
            repeats = 1 if options.quick else options.repeats
            measured = pool.submit(measure_row, name, ROWS[name], options.threads, repeats, options.quick)
            results.append(measured.result())
            print(" | ".join(line(results[-1])), flush=True)
            options.json.write_text(json.dumps({"machine": described, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
