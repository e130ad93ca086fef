"""Show who wrote each word, how unsure the device was, and what it would have written.

python examples/provenance.py
"""

from uhlm_edge import Hybrid, provenance

messages = [{"role": "user", "content": "I would like to book a table for two in Albany tonight."}]
with Hybrid.load("demo", strategy="hlm") as hybrid:
    reply = hybrid.generate(messages, seed=4)
    for token in reply:
        u = "-" if token.uncertainty is None else f"{token.uncertainty:.2f}"
        line = f"{token.text!r:14} {provenance(token):10} u={u}"
        if token.source == "cloud":
            line += f"  the device proposed {reply.draft_text(token)!r}"
        print(line)
    stats = reply.stats
    print(f"{stats.uploads} uploads, {stats.rejected} replaced, {stats.uplink_bytes} bytes up")
