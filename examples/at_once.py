"""Several questions at once with asyncio: they queue for the one device model.

python examples/at_once.py
"""

import asyncio

from uhlm_edge import Hybrid

QUESTIONS = ("What is the capital of Peru?", "What is 17 plus 25?", "What is the capital of Chile?")


async def main() -> None:
    """Ask all, then one more whose tokens are printed as they come."""
    with Hybrid.load("demo", seed=1) as hybrid:
        asked = [hybrid.agenerate([{"role": "user", "content": q}]) for q in QUESTIONS]
        for question, reply in zip(QUESTIONS, await asyncio.gather(*asked), strict=True):
            print(f"{question} {reply}")
        async for token in hybrid.agenerate([{"role": "user", "content": "What is 3 plus 4?"}]):
            print(token.text, end="", flush=True)
        print()


asyncio.run(main())
