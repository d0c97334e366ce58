"""One side of `cargo bench --bench llm`: a process that does a piece of work for every line that it
reads, and answers with one JSON line.

A line has four numbers: ROUND ROWS PROMPT NEW. Prompts differ in every round, and they are those of
the other sides: no cache of prefixes helps.
"""

import json
import os
import sys
import time

# Libraries print to stdout as well; the answers have a copy of it to themselves.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(**values):
    print(json.dumps(values), file=ANSWERS, flush=True)


def prompts(number, rows, length, vocabulary):
    """The rows' ids in round `number`, `[rows][length]`."""
    first = number * rows * length
    ids = [i * 7919 % vocabulary for i in range(first, first + rows * length)]
    return [ids[row * length : (row + 1) * length] for row in range(rows)]


def serve(name, vocabulary, work):
    """Calls `work(prompts, new)`, which returns the number of new tokens, for every line."""
    answer(ready=name)
    for line in sys.stdin:
        number, rows, length, new = map(int, line.split())
        ids = prompts(number, rows, length, vocabulary)
        start = time.perf_counter()
        tokens = work(ids, new)
        answer(seconds=time.perf_counter() - start, tokens=tokens)
