"""Print a reply as it comes.

python examples/stream.py "What is the capital of Peru?"
"""

import sys

from uhlm_edge import Hybrid

question = " ".join(sys.argv[1:]) or "What is the capital of Peru?"
with Hybrid.load("demo") as hybrid:
    for token in hybrid.generate([{"role": "user", "content": question}], seed=1):
        print(token.text, end="", flush=True)
    print()
