"""Flower's settings, with their reasons. Read by `celery -A workers.app flower --conf=workers/flowerconfig.py`.

Floor 4. Flower can terminate and revoke tasks. That harms nothing: the lease ends, and the work is done again. To stop
a migration, use `migrator pause`: what Flower does is not remembered.
"""

from __future__ import annotations

import os

#: Loopback, unless somebody decides otherwise: Flower can stop workers.
address = os.environ.get("MIGRATOR_FLOWER_ADDRESS", "127.0.0.1")
port = int(os.environ.get("MIGRATOR_FLOWER_PORT", "5555"))
#: "user:password"; without it Flower answers its pages and refuses its API.
basic_auth = [os.environ["MIGRATOR_FLOWER_AUTH"]] if os.environ.get("MIGRATOR_FLOWER_AUTH") else None
#: What an operator reads of a task: its words, not its internals.
tasks_columns = "name,uuid,args,state,result,received,runtime,worker"
#: Rows of the task list; more would push Flower's memory over what a batch of text is worth.
max_tasks = 20_000
natural_time = True
