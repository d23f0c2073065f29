-- Cancelling what stands in the way of a lock, where the operator asked for it.

-- name: cancel
-- Cancels what one session runs, if it is still in the transaction in which it was seen, and still runs something: what
-- it locked it holds until that transaction ends. It never ends a session.
-- locks: none.   idempotent: yes.
SELECT pg_cancel_backend(a.pid) AS cancelled FROM pg_stat_activity a
 WHERE a.pid = %(pid)s AND a.xact_start = %(since)s AND a.state = 'active' AND a.backend_type = 'client backend'
   AND a.pid <> pg_backend_pid()
