"""A conversation of several turns: what was said before is remembered, and not read again.

python examples/conversation.py
"""

from uhlm_edge import Hybrid

with Hybrid.load("demo", seed=1) as hybrid:
    for question in ("What is the capital of Peru?", "And of Chile?"):
        reply = hybrid.chat(question)
        print(f"> {question}\n{reply}")
        print(f"  {reply.cached_tokens} of {reply.prompt_tokens} tokens were read before")
