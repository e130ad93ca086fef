"""The same question under several strategies and thresholds: what each sends, what each gives.

python examples/strategies.py
"""

from uhlm_edge import Hybrid, UhlmError

messages = [{"role": "user", "content": "I would like to book a table for two in Albany tonight."}]
with Hybrid.load("demo", seed=1, max_tokens=40) as hybrid:
    for options in (
        {"strategy": "local"},
        {"strategy": "uhlm", "threshold": 0.5},
        {"strategy": "hlm"},
        {"strategy": "spec", "stop": "?"},
    ):
        reply = hybrid.generate(messages, **options).read()
        print(f"{options}: {reply.stats.uploads} uploads, ended by {reply.finish_reason}: {reply}")
    try:
        hybrid.generate(messages, threshhold=0.5)
    except UhlmError as error:
        print(f"refused: {error}")
