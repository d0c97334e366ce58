"""The official ALFWorld engine's side of `cargo bench --bench alfworld`.

For every line on standard input it loads, resets and plays the games of a script once. It then
prints one line of JSON: wall and CPU seconds of each part, a digest of all observations, admissible
commands and wins, and the memory of this process in MB.
"""

import hashlib
import json
import os
import sys
import time

import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos

INFOS = textworld.EnvInfos(won=True, admissible_commands=True)


def memory():
    with open("/proc/self/statm", encoding="utf-8") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Clock:
    def __init__(self):
        self.seconds, self.cpu = 0.0, 0.0

    def time(self, work):
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.seconds += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return result


def see(digest, state):
    commands = "\n".join(sorted(state["admissible_commands"]))
    digest.update(f"{state['feedback']}\0{commands}\0{bool(state['won'])}\0".encode("utf-8"))


def play(episodes):
    load, reset, step = Clock(), Clock(), Clock()
    digest, kept, sizes = hashlib.sha256(), [], []
    for episode in episodes:
        wrappers = [AlfredDemangler(shuffle=False), AlfredInfos]
        env = load.time(lambda: textworld.start(episode["file"], INFOS, wrappers))
        see(digest, reset.time(env.reset))
        for action in episode["actions"]:
            state, _score, _done = step.time(lambda: env.step(action))
            see(digest, state)
        kept.append(env)
        sizes.append(memory())
    parts = {"load": load, "reset": reset, "step": step}
    answer = {name: {"seconds": clock.seconds, "cpu": clock.cpu} for name, clock in parts.items()}
    return {**answer, "digest": digest.hexdigest(), "memory": [sizes[0], sizes[-1]]}


def main():
    with open(sys.argv[1], encoding="utf-8") as script:
        episodes = json.load(script)
    for _ in sys.stdin:
        print(json.dumps(play(episodes)), flush=True)


main()
