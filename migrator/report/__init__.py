"""Floor 4, below the doors: one page that tells a migration, for whoever has to sign it.

Reading order: `gather` (what is known), `timeline` (what became of it over time), `figures` (the plots), `page` and
`markdown` (the forms). It only reads.
"""
