"""For applications that search or write a column while it is being moved from one embedding model to the next.

Floor 0. Promise (P1, H9): a search with `Reader.expression` is answered by vectors of the one generation that the
column holds for that very statement, or it fails; it is never answered by another. The package asks for nothing but the
database driver that the application has already: none of the tool is imported with it. docs/applications.md shows it
for each kind of application.

    from migrator.client import Reader

    reader = Reader("public.docs", "embedding", {"qwen/text-embedding-v3@1024": embed_v3, ...})
    search = f"SELECT id FROM docs ORDER BY embedding <=> {reader.expression} LIMIT 10"

    query = reader.parameters("red shoes")            # embeds with every model that may be needed
    with pool.connection() as connection:
        reader.refresh(connection)                    # one statement in half a minute
        rows = connection.execute(search, query).fetchall()

With SQLAlchemy: `migrator.client.sqlalchemy`. Writers: `declare`, `declare_async`, `options`.
"""

from migrator.client.listening import listen, listen_async
from migrator.client.reader import AsyncReader, Reader
from migrator.client.window import WrongDimensions, is_stale
from migrator.client.writers import NotInTransaction, declare, declare_async, options

__all__ = [
    "AsyncReader",
    "NotInTransaction",
    "Reader",
    "WrongDimensions",
    "declare",
    "declare_async",
    "is_stale",
    "listen",
    "listen_async",
    "options",
]
