"""The official ScienceWorld wrapper's side of `cargo bench --bench scienceworld`.

Plays a script of episodes once for every line on standard input and answers with one line of JSON:
seconds, steps, CPU seconds of this process and of its Java process, and a digest of what was seen.
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
    digest, steps = hashlib.sha256(), 0
    for episode in episodes:
        env.load(episode["task"], episode["variation"], episode["simplification"])
        env.reset()
        for action in episode["actions"]:
            observation, _reward, done, info = env.step(action)
            valid = "\n".join(sorted(info["valid"]))
            for text in (observation, info["look"], info["inv"], valid, f"{info['score']} {info['moves']} {done}"):
                digest.update(text.encode("utf-8"))
            steps += 1
    return steps, digest.hexdigest()


def main():
    with open(sys.argv[1], encoding="utf-8") as script:
        episodes = json.load(script)
    env = ScienceWorldEnv()
    java = env._gateway.java_process.pid
    for _ in sys.stdin:
        client, simulator = cpu_seconds(os.getpid()), cpu_seconds(java)
        start = time.perf_counter()
        steps, digest = play(env, episodes)
        answer = {
            "seconds": time.perf_counter() - start,
            "steps": steps,
            "client_cpu": cpu_seconds(os.getpid()) - client,
            "java_cpu": cpu_seconds(java) - simulator,
            "digest": digest,
        }
        print(json.dumps(answer), flush=True)


main()
