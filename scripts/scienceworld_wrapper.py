"""The official ScienceWorld wrapper's side of `cargo bench --bench scienceworld`.

Plays a script of episodes once per line on standard input and prints one line of JSON each time:
seconds, steps, CPU seconds of this process and of its Java process, and a digest of all texts.
"""

import hashlib
import json
import os
import sys
import time

from scienceworld import ScienceWorldEnv


def cpu_seconds(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def play(env, episodes):
    digest = hashlib.sha256()
    steps = 0
    for episode in episodes:
        env.load(episode["task"], episode["variation"], episode["simplification"])
        env.reset()
        for action in episode["actions"]:
            observation, _reward, done, info = env.step(action)
            valid = "\n".join(sorted(info["valid"]))
            end = f"{info['score']} {info['moves']} {done}"
            for text in (observation, info["look"], info["inv"], valid, end):
                digest.update(text.encode("utf-8"))
            steps += 1
    return steps, digest.hexdigest()


def main():
    with open(sys.argv[1], encoding="utf-8") as script:
        episodes = json.load(script)
    env = ScienceWorldEnv()
    java = env._gateway.java_process.pid
    for _ in sys.stdin:
        client = cpu_seconds(os.getpid())
        simulator = cpu_seconds(java)
        start = time.perf_counter()
        steps, digest = play(env, episodes)
        result = {
            "seconds": time.perf_counter() - start,
            "steps": steps,
            "client_cpu": cpu_seconds(os.getpid()) - client,
            "java_cpu": cpu_seconds(java) - simulator,
            "digest": digest,
        }
        print(json.dumps(result), flush=True)


main()
