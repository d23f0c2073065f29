"""The story, told once: what is done next, by whom, and what becomes of it when it fails.

Floor 3. Redis may be lost at any moment: everything that is to be done stands in Postgres, and `tick` hands it out
again. What goes through a broker are hints, and a stale hint is refused by its fence.

Reading order: `tick` (what is to be done now), `perform` (doing one piece of it), `verbs` (what an operator asks for).
"""
